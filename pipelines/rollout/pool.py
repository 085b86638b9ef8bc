"""The prompts of a run as requests for the rollout engines, within the length limit."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.images import ImageInputs
from actors.requests import Request
from dps_ray.config import Config
from dps_ray.errors import DataError, DPSError, ModelError
from dps_ray.hashing import hash_ids, hash_key
from dps_ray.prompts.cache import Cache
from dps_ray.prompts.dataset import Prompt, PromptTable
from pipelines.rollout.encoding import Encoder
from pipelines.rollout.measuring import Progress, measured, overlong
from pipelines.rollout.read_ahead import ReadAhead

_KEEP = 0x6B656570  # makes this draw independent of others with the same seed
_MANY = 8  # prompts: if none of them can be tokenized, that is no accident
_MOST_TRIED = 256  # at the start, if all that were tried are too long


class Drawn(NamedTuple):
    """Prompts to roll out, and the same as requests."""

    prompts: list[Prompt]
    requests: list[Request]

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.array([prompt.id for prompt in self.prompts], dtype=np.int64)

    def joined(self, others: "Drawn") -> "Drawn":
        """Returns these prompts, and after them the others."""
        return Drawn(self.prompts + others.prompts, self.requests + others.requests)

    def take(self, ids: NDArray[np.int64]) -> "Drawn":
        """Returns the prompts with these ids, in this order."""
        rows = {id_: row for row, id_ in enumerate(self.ids.tolist())}
        found = [rows[id_] for id_ in ids.tolist()]
        return Drawn([self.prompts[row] for row in found], [self.requests[row] for row in found])


class PromptPool:
    """A `PromptTable` with a tokenizer and, for a vision-language model, its image processor.

    Args:
        measure: when prompts are tokenized to see whether they are too long. "upfront": all of them now. "drawn": each
            when it is drawn, by `draw`.
        progress: called with (prompts measured, total, unit).
        cache: where measured lengths are kept; None: nowhere.

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
        measure: Literal["drawn", "upfront"] = "upfront",
        cache: Cache | None = None,
    ):
        self.table = table
        self.encoder = Encoder(tokenizer, images, config.model.path, table.place)
        self._limit = config.data.max_prompt_length
        self._strict = config.data.overlong_prompts == "error"
        self._reader = ReadAhead(table.rows)
        self._asked = self._were_there = 0  # prompts that were drawn, and those of them read ahead
        self._measured = measure == "upfront"
        self.ids = table.ids
        """Prompts that may be drawn: int64 (n,), in file order. With measure="upfront" all are within the limit."""
        self.skipped = 0
        """Prompts that were left out because they are too long."""
        if self._measured:
            fits = measured(table, self.encoder, config, progress, cache) <= self._limit
            self.ids, self.skipped = table.ids[fits], int((~fits).sum())

    def prompts(self, ids: NDArray[np.int64]) -> list[Prompt]:
        return self._reader.rows(ids)

    def expect(self, ids: NDArray[np.int64]) -> None:
        """Begins to read these prompts in the background, because they are likely to be drawn next."""
        self._reader.expect(ids)

    def metrics(self) -> dict[str, float]:
        """Returns the share of the prompts read so far that had been read ahead."""
        return {"data/read_ahead": self._were_there / max(self._asked, 1)}

    def samples(self, count: int) -> Iterator[Prompt]:
        """Yields up to `count` prompts, spread evenly over the files and beginning with the first. Each is read when it
        is requested."""
        places = np.linspace(0, len(self.ids), count, endpoint=False, dtype=int)
        for id_ in self.ids[np.unique(places)]:
            yield from self.prompts(np.array([id_]))

    def drawn(self, ids: NDArray[np.int64]) -> Drawn:
        """Reads and tokenizes prompts that are known to be within the limit."""
        prompts = self.prompts(ids)
        return Drawn(prompts, self.encoder.requests(prompts))

    def draw(self, ids: NDArray[np.int64]) -> tuple[Drawn, dict[int, DPSError]]:
        """Reads and tokenizes prompts. Returns those that can be rolled out, and for each of the others the reason.

        Raises:
            DataError: a prompt is too long, and `data.overlong_prompts` is "error".
            DataError, ModelError: of many prompts not one can be tokenized.
        """
        self._asked += len(ids)
        self._were_there += self._reader.count(ids)
        prompts = self.prompts(ids)
        kept: list[tuple[Prompt, Request]] = []
        refused: dict[int, DPSError] = {}
        for prompt, found in zip(prompts, self._requests_or_errors(prompts), strict=True):
            if isinstance(found, DPSError):
                refused[prompt.id] = found
            elif len(found.tokens) > self._limit:
                refused[prompt.id] = self._too_long(prompt.id, len(found.tokens))
            else:
                kept.append((prompt, found))
        return Drawn([prompt for prompt, _ in kept], [request for _, request in kept]), refused

    def try_out(self, source: Any) -> None:
        """Tokenizes some prompts from all over the files, since what is wrong with all prompts is wrong with these.

        source: data.train, for the message.

        Raises:
            DataError, ModelError: a prompt cannot be tokenized, or is too long and `data.overlong_prompts` is "error"; or
                all of them are too long.
        """
        if self._measured:
            return
        fits = False
        for tried, prompt in enumerate(self.samples(_MOST_TRIED), start=1):
            length = len(self._requests([prompt])[0].tokens)
            if length > self._limit:
                self._too_long(prompt.id, length)
            else:
                fits = True
            if fits and tried >= _MANY:
                return
        if not fits:
            raise DataError(
                f"all prompts of {source} that were tried are longer than data.max_prompt_length={self._limit} tokens; "
                "raise it"
            )

    def _requests_or_errors(self, prompts: Sequence[Prompt]) -> Sequence[Request | DPSError]:
        try:
            return self._requests(prompts)
        except (DataError, ModelError) as error:
            found = [self._request_or_error(prompt) for prompt in prompts]
            if len(prompts) >= _MANY and all(isinstance(each, DPSError) for each in found):
                raise error
            return found

    def _request_or_error(self, prompt: Prompt) -> Request | DPSError:
        try:
            return self._requests([prompt])[0]
        except (DataError, ModelError) as error:
            return error

    def _requests(self, prompts: Sequence[Prompt]) -> list[Request]:
        requests = self.encoder.requests(prompts)
        if not self._measured:
            self.encoder.check_images(prompts)
        return requests

    def _too_long(self, id_: int, length: int) -> DataError:
        error = overlong(self.table, id_, length, self._limit)
        if self._strict:
            raise error
        return error

    def keep(self, size: int, seed: int) -> None:
        """Keeps only `size` of the prompts if there are more. The seed and the ids determine which."""
        if size < len(self.ids):
            hashes = hash_ids(self.ids, hash_key(seed, _KEEP))
            self.ids = self.ids[np.sort(np.argsort(hashes)[:size])]
