"""Prompts as requests for the rollout engines: tokens after the chat template, and images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from actors.images import ImageInputs
from actors.requests import Request
from dps_ray.errors import ModelError
from dps_ray.prompts.dataset import Prompt
from pipelines.rollout.image_prompts import check_images, expanded, messages_with_images


class Encoder:
    """Turns prompts into requests with a model's tokenizer and, for a vision-language model, its image processor.

    Args:
        tokenizer: see `load_tokenizer`.
        images: see `load_image_inputs`; None if the model takes no images.
        model: the model's path, for error messages.
        place: returns the file and row of a prompt by its id, for error messages.
    """

    def __init__(
        self, tokenizer: Any, images: ImageInputs | None, model: str, place: Callable[[int], str]
    ) -> None:
        self.tokenizer = tokenizer
        self.images = images
        self._model = model
        self._place = place

    def requests(self, prompts: Sequence[Prompt]) -> list[Request]:
        """Returns the prompts as requests.

        Raises:
            ModelError: the chat template cannot render a prompt.
            DataError: images and `<image>` marks of a prompt do not match.
        """
        texts = [self._text(prompt) for prompt in prompts]
        if not texts:
            return []
        tokens = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self._request(prompt, row) for prompt, row in zip(prompts, tokens, strict=True)]

    def lengths(self, prompts: Sequence[Prompt]) -> NDArray[np.int32]:
        """Returns the length of each prompt in tokens, image tokens included, and checks its images: int32 (n,).

        Raises:
            ModelError, DataError: as `requests`; or an image is damaged.
        """
        requests = self.requests(prompts)
        self.check_images(prompts)
        return np.array([len(request.tokens) for request in requests], dtype=np.int32)

    def check_images(self, prompts: Sequence[Prompt]) -> None:
        """Checks that the prompts' image files are complete.

        Raises:
            DataError: an image file is damaged.
        """
        for prompt in prompts:
            if prompt.images:
                check_images(prompt, self._place(prompt.id))

    def _text(self, prompt: Prompt) -> str:
        messages = messages_with_images(prompt) if prompt.images else prompt.messages
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            )
        except TemplateError as error:
            raise ModelError(
                f"the chat template of {self._model} cannot render {self._place(prompt.id)}: {error}; "
                "set model.chat_template to a file with a template that can"
            ) from None

    def _request(self, prompt: Prompt, tokens: list[int]) -> Request:
        if not prompt.images and self.images is None:
            return Request(prompt.id, np.array(tokens, dtype=np.int32))
        place = self._place(prompt.id)
        whole = expanded(tokens, prompt, self.images, self._model, place)
        return Request(prompt.id, whole, tuple(prompt.images))
