"""The prompts of a run as token ids for the rollout engines, within the length limit."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from actors.images import ImageInputs
from actors.requests import Request
from dps_ray.config import Config
from dps_ray.errors import DataError, ModelError
from dps_ray.hashing import hash_ids, hash_key
from dps_ray.prompts.dataset import Prompt, PromptTable
from pipelines.rollout.image_prompts import check_images, expanded, messages_with_images

Progress = Callable[[int, int, str], None]
_KEEP = 0x6B656570  # makes this draw independent of others with the same seed
# Prompts that are tokenized at a time to check their lengths.
_CHUNK = 4096
_CHUNK_WITH_IMAGES = 512


class PromptPool:
    """A `PromptTable` with a tokenizer and, for a vision-language model, its image processor.

    `ids`, int64, are those of the prompts within the length limit, in file order. `skipped` is the number of others.

    Raises:
        DataError: an image is damaged, images and `<image>` marks do not match, or a prompt is too long.
        ModelError: the chat template is malformed or rejects a prompt.
    """

    def __init__(
        self,
        table: PromptTable,
        tokenizer: Any,
        images: ImageInputs | None,
        config: Config,
        progress: Progress,
    ):
        self.table = table
        self._tokenizer = tokenizer
        self._images = images
        self._model = config.model.path
        self.ids, self.skipped = self._within_the_limit(config, progress)

    def prompts(self, ids: NDArray[np.int64]) -> list[Prompt]:
        return self.table.rows(ids)

    def samples(self, count: int) -> Iterator[Prompt]:
        """Yields up to `count` prompts, spread evenly over the files and beginning with the first. Each is read when it
        is requested."""
        places = np.linspace(0, len(self.ids), count, endpoint=False, dtype=int)
        for id_ in self.ids[np.unique(places)]:
            yield from self.prompts(np.array([id_]))

    def requests(self, prompts: Sequence[Prompt]) -> list[Request]:
        """The prompts as requests: tokens after the chat template, and images."""
        texts = [self._text(prompt) for prompt in prompts]
        if not texts:
            return []
        tokens = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self._request(prompt, row) for prompt, row in zip(prompts, tokens, strict=True)]

    def _text(self, prompt: Prompt) -> str:
        messages = messages_with_images(prompt) if prompt.images else prompt.messages
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            )
        except TemplateError as error:
            raise ModelError(
                f"the chat template of {self._model} cannot render {self.table.place(prompt.id)}: {error}; "
                "set model.chat_template to a file with a template that can"
            ) from None

    def _request(self, prompt: Prompt, tokens: list[int]) -> Request:
        if not prompt.images and self._images is None:
            return Request(prompt.id, np.array(tokens, dtype=np.int32))
        place = self.table.place(prompt.id)
        whole = expanded(tokens, prompt, self._images, self._model, place)
        return Request(prompt.id, whole, tuple(prompt.images))

    def keep(self, size: int, seed: int) -> None:
        """Keeps only `size` of the prompts if there are more. The seed and the ids determine which."""
        if size < len(self.ids):
            hashes = hash_ids(self.ids, hash_key(seed, _KEEP))
            self.ids = self.ids[np.sort(np.argsort(hashes)[:size])]

    def _within_the_limit(
        self, config: Config, progress: Progress
    ) -> tuple[NDArray[np.int64], int]:
        limit = config.data.max_prompt_length
        everything = self.table.ids
        fits = np.ones(len(everything), dtype=bool)
        size = _CHUNK_WITH_IMAGES if self.table.has_images else _CHUNK
        for start in range(0, len(everything), size):
            chunk = everything[start : start + size]
            prompts = self.prompts(chunk)
            lengths = [len(r.tokens) for r in self.requests(prompts)]
            fits[start : start + size] = np.array(lengths) <= limit
            for prompt in prompts:
                if prompt.images:
                    check_images(prompt, self.table.place(prompt.id))
            progress(start + len(chunk), len(everything), "prompts measured")
            if config.data.overlong_prompts == "error" and not fits.all():
                row = int(np.argmin(fits))
                raise DataError(
                    f"prompt {everything[row]} has {lengths[row - start]} tokens, more than "
                    f"data.max_prompt_length={limit}; raise it, or set data.overlong_prompts=skip"
                )
        return everything[fits], int((~fits).sum())
