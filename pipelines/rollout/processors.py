"""A model's tokenizer and image processor, as the driver uses them.

transformers' AutoTokenizer and AutoConfig import torch and with it what models are made of, which takes five seconds. So
the tokenizer that they find for a folder is kept in the user's cache, as `tokenizers/HASH/`, and loaded from there without
them for as long as the files of the folder and the versions of the libraries are the same. Tokenizers with code of their
own, models on the hub and models that take images are not kept.
"""

import hashlib
import importlib.metadata
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from actors.images import ImageInputs, load_image_inputs
from actors.model_files import check_savable
from dps_ray.errors import ModelError

_FORMAT = 1
_ENTRIES = 20  # kept at most
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ckpt"}
_CHECKSUMS = "checksums.json"


class Processors(NamedTuple):
    """What makes the model's inputs of prompts; `images` is None for a model that takes none."""

    tokenizer: Any
    images: ImageInputs | None


def load_processors(
    model: str, chat_template: str | None, max_pixels: int | None, cache: Path
) -> Processors:
    """Returns the tokenizer, with a chat template, and the image processor of a model, and checks that transformers can
    save them into a checkpoint.

    Args:
        model: Hugging Face folder or name.
        chat_template: Jinja template or a file with one, instead of the tokenizer's.
        max_pixels: larger images are scaled down to this many pixels; None: the model's own limit.
        cache: folder in which tokenizers are kept. If it cannot be written, nothing is kept.

    Raises:
        ModelError: as `load_tokenizer`; or transformers can load a file of the model but cannot save it.
    """
    entry = _entry(model, cache)
    tokenizer = None if entry is None else _kept(entry)
    if tokenizer is not None:  # of a text model, and saved before
        return Processors(_with_template(tokenizer, model, chat_template), None)
    tokenizer = _found(model)
    images = load_image_inputs(model, max_pixels)
    check_savable(model, tokenizer, images)
    if entry is not None and images is None:
        with suppress(
            Exception
        ):  # of the file system, or the tokenizer's own; the next start takes longer
            _keep(tokenizer, entry)
    return Processors(_with_template(tokenizer, model, chat_template), images)


def load_tokenizer(model: str, chat_template: str | None) -> Any:
    """The model's tokenizer, with a chat template.

    Raises:
        ModelError: the model is missing; or its tokenizer has no chat template and none is given; or the given template
            is neither a file nor a template.
    """
    return _with_template(_found(model), model, chat_template)


def _found(model: str) -> Any:
    """The tokenizer that transformers finds."""
    from transformers import AutoConfig, AutoTokenizer

    # Any other text may be the name of a model on the hub.
    if model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise ModelError(f"model.path={model}: there is no such folder")
    try:
        AutoConfig.from_pretrained(model)
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model.path={model} is no model: {reason}; write the path of a Hugging Face folder "
            "(config.json, weights, tokenizer) or the name of a model on the hub"
        ) from None


def _with_template(tokenizer: Any, model: str, chat_template: str | None) -> Any:
    if chat_template is not None:
        tokenizer.chat_template = _template(chat_template)
    if not tokenizer.chat_template:
        # Prompts are tokenized without special tokens, so the template has to write the bos token.
        begin = "{{ bos_token }}" if tokenizer.bos_token else ""
        after = " after the bos token" if begin else ""
        template = begin + "{% for m in messages %}{{ m.content }}{% endfor %}"
        raise ModelError(
            f"the tokenizer of {model} has no chat template, which prompts of messages need; give a file with a "
            f"template as model.chat_template=FILE, or a template itself. This one joins the contents{after}: "
            f"""'model.chat_template="{template}"'"""
        )
    return tokenizer


def _template(given: str) -> str:
    """The chat template, which is given either as a file or as its text."""
    if len(given) < 256 and Path(given).is_file():
        return Path(given).read_text()
    if "{{" not in given and "{%" not in given:
        raise ModelError(
            f"model.chat_template={given}: there is no such file, and it is not a Jinja template, in which "
            "{{ }} and {% %} write the messages"
        )
    return given


def _entry(model: str, cache: Path) -> Path | None:
    """The folder that keeps the tokenizer of a model: named by a hash of all that the tokenizer depends on. None for a
    model that is not a folder."""
    folder = Path(model)
    if not (folder / "config.json").is_file():
        return None
    libraries = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    # transformers knows some models by their path, so it is part of what the tokenizer depends on.
    what = [_FORMAT, *libraries, model, _checksums(folder)]
    return cache / "tokenizers" / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that a tokenizer may depend on, by its name."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(_small_files(folder))
    }


def _small_files(folder: Path) -> Iterator[Path]:
    """The files of a Hugging Face folder without those that hold weights."""
    for place in (folder, folder / "additional_chat_templates"):
        for file in place.iterdir() if place.is_dir() else ():
            if file.is_file() and file.suffix not in _WEIGHTS and file.name != _CHECKSUMS:
                yield file


def _kept(entry: Path) -> Any:
    """The tokenizer in this folder; None if there is none, or if it is damaged."""
    try:
        if json.loads((entry / _CHECKSUMS).read_text()) != _checksums(entry):
            return None
        os.utime(entry)  # the entries used last are kept
    except (OSError, ValueError):
        return None
    return _load(entry)


def _load(entry: Path) -> Any:
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    return TokenizersBackend.from_pretrained(entry)


def _keep(tokenizer: Any, entry: Path) -> None:
    """Keeps a tokenizer, if loading it back gives the same."""
    if not _plain(tokenizer):
        return
    entry.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=entry.parent))
    try:
        tokenizer.save_pretrained(aside)
        if _parts(_load(aside)) == _parts(tokenizer):
            (aside / _CHECKSUMS).write_text(json.dumps(_checksums(aside)))
            shutil.rmtree(entry, ignore_errors=True)  # damaged
            aside.rename(entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in sorted(entry.parent.glob("[!.]*"), key=os.path.getmtime)[:-_ENTRIES]:
        shutil.rmtree(old, ignore_errors=True)


def _plain(tokenizer: Any) -> bool:
    """Whether the tokenizer consists of a file and special tokens: its class has no methods of its own besides the one
    that makes it."""
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    if not isinstance(tokenizer, TokenizersBackend):
        return False
    kinds = type(tokenizer).__mro__
    special = {
        name
        for kind in kinds[: kinds.index(TokenizersBackend)]
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and hasattr(TokenizersBackend, name)
    }
    return special <= {"__init__"}


def _parts(tokenizer: Any) -> list[Any]:
    """Everything that tokens of a text depend on."""
    return [
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        tokenizer.split_special_tokens,
    ]
