"""The lengths of all prompts of a table in tokens, found over several processes and kept in a cache."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dps_ray.config import Config
from dps_ray.errors import DataError, DPSError
from dps_ray.processes import Processes, cores
from dps_ray.prompts.cache import Cache, Entry, key_of
from dps_ray.prompts.dataset import Prompt, PromptTable
from pipelines.rollout.encoding import Encoder

Progress = Callable[[int, int, str], None]
Lengths = NDArray[np.int32]

# Prompts that are tokenized at a time.
_CHUNK = 4096
_CHUNK_WITH_IMAGES = 512
# Fewer prompts are tokenized sooner than other processes have started.
_WORTH_PROCESSES = 50_000


def measured(
    table: PromptTable, encoder: Encoder, config: Config, progress: Progress, cache: Cache | None
) -> Lengths:
    """Returns the length of each prompt of a table in tokens, in file order: int32 (N,).

    progress: called with (prompts measured, total, unit).

    Raises:
        DataError: a prompt's images are damaged or do not match its text; or it is too long, and
            `data.overlong_prompts` is "error".
        ModelError: the chat template rejects a prompt.
    """

    def find() -> Lengths:
        lengths = np.empty(len(table), dtype=np.int32)
        done = 0
        for found in _chunks(table, encoder, config):
            lengths[done : done + len(found)] = found
            _check(lengths, done, done + len(found))
            done += len(found)
            progress(done, len(table), "prompts measured")
        return lengths

    def _check(lengths: Lengths, start: int, end: int) -> None:
        limit = config.data.max_prompt_length
        if config.data.overlong_prompts == "error" and (lengths[start:end] > limit).any():
            row = start + int(np.argmax(lengths[start:end] > limit))
            raise overlong(table, int(table.ids[row]), int(lengths[row]), limit)

    if cache is None:
        return find()
    key = key_of("lengths", table.identities, encoder=_digest(encoder, config))
    lengths: Lengths = cache.kept(key, lambda: Entry({"lengths": find()}, {})).arrays["lengths"]
    _check(lengths, 0, len(lengths))
    return lengths


def overlong(table: PromptTable, id_: int, length: int, limit: int) -> DataError:
    """The error to raise for a prompt that is too long."""
    return DataError(
        f"{table.place(id_)}: prompt {id_} has {length} tokens, more than data.max_prompt_length={limit}; raise it, "
        "or set data.overlong_prompts=skip"
    )


def _chunks(table: PromptTable, encoder: Encoder, config: Config) -> Iterator[Lengths]:
    """Yields the lengths of consecutive prompts."""
    size = _CHUNK_WITH_IMAGES if table.has_images else _CHUNK
    starts = range(0, len(table), size)
    chunks = (table.rows(table.ids[start : start + size]) for start in starts)
    if cores() == 1 or len(table) < _WORTH_PROCESSES:
        yield from map(encoder.lengths, chunks)
        return
    # The table stays here, and with it the places of prompts.
    elsewhere = Encoder(encoder.tokenizer, encoder.images, config.model.path, str)
    processes = Processes(partial(_found, elsewhere), cores(), lambda _: "tokenized prompts")
    coming, passed_on = tee(chunks)
    try:
        for chunk, found in zip(coming, processes.map(passed_on), strict=True):
            # Raises with the file and row, which the other process does not know.
            yield encoder.lengths(chunk) if isinstance(found, DPSError) else found
    finally:
        processes.close()


def _found(encoder: Encoder, chunk: Sequence[Prompt]) -> Lengths | DPSError:
    """The lengths of prompts, or the error of one of them."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as many processes as cores are at work
    try:
        return encoder.lengths(chunk)
    except DPSError as error:
        return error


def _digest(encoder: Encoder, config: Config) -> str:
    """Returns a hash of what the lengths depend on besides the prompts."""
    tokenizer: Any = encoder.tokenizer
    images = None if encoder.images is None else encoder.images.processor.to_json_string()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = (
        repr(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    )
    parts = [vocabulary, tokenizer.chat_template, images, config.data.max_pixels]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
