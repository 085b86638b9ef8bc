"""Prompts as requests for the rollout engines: tokens after the chat template, and images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from actors.images import ImageInputs
from actors.requests import Request
from dps_ray.errors import ModelError
from dps_ray.prompts.dataset import Prompt
from pipelines.rollout.image_prompts import check_images, expanded, messages_with_images

Message = Mapping[str, Any]
# Stands for a response where only what follows it is wanted. Templates strip white space and cut at special marks.
_RESPONSE = "ThisIsTheResponse"


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

    def opening(self, messages: Sequence[Message], prompt_id: int) -> NDArray[np.int32]:
        """Returns the tokens of the first messages of an episode, up to where the policy writes: int32 (n,).

        Raises:
            ModelError: the chat template cannot render them.
        """
        return self._tokens(self._rendered(messages, prompt_id))

    def continuation(
        self, first: Sequence[Message], new: Sequence[Message], last: int, prompt_id: int
    ) -> NDArray[np.int32]:
        """Returns the tokens that stand between a response and the next: the end of the turn as the chat template writes
        it, as far as the response has it not, and the new messages: int32 (n,).

        Only what comes after the response is tokenized. The tokens before stay those that were sampled.

        Args:
            first: the first messages of the episode.
            new: the messages after the response.
            last: the last token of the response.

        Raises:
            ModelError: the chat template cannot render them, or leaves responses out.
        """
        response = {"role": "assistant", "content": _RESPONSE}
        text = self._rendered([*first, response, *new], prompt_id)
        if text.count(_RESPONSE) != 1:
            raise ModelError(
                f"the chat template of {self._model} does not write the content of an assistant's message before "
                "others, so a conversation cannot go on; set model.chat_template to a file with a template that does"
            )
        after = text.partition(_RESPONSE)[2]
        end = self.tokenizer.decode([last])
        if last in self.tokenizer.all_special_ids and after.startswith(end):
            after = after[len(end) :]
        return self._tokens(after)

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
        return self._rendered(
            messages_with_images(prompt) if prompt.images else prompt.messages, prompt.id
        )

    def _rendered(self, messages: Sequence[Message], prompt_id: int) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=True
                )
            )
        except TemplateError as error:
            raise ModelError(
                f"the chat template of {self._model} cannot render {self._place(prompt_id)}: {error}; "
                "set model.chat_template to a file with a template that can"
            ) from None

    def _tokens(self, text: str) -> NDArray[np.int32]:
        tokens = self.tokenizer([text], add_special_tokens=False)["input_ids"][0]
        return np.array(tokens, dtype=np.int32)

    def _request(self, prompt: Prompt, tokens: list[int]) -> Request:
        if not prompt.images and self.images is None:
            return Request(prompt.id, np.array(tokens, dtype=np.int32))
        place = self._place(prompt.id)
        whole = expanded(tokens, prompt, self.images, self._model, place)
        return Request(prompt.id, whole, tuple(prompt.images))
