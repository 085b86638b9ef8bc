"""The files of a Hugging Face folder besides the weights, written into a checkpoint's model folder."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from actors.images import ImageInputs
from dps_ray.errors import ModelError

_SHARD = "5GB"  # of a file with weights at the most, as most public models have it


class ModelFiles:
    """The files that a trained policy is served with, which are those of the start policy.

    Args:
        model: Hugging Face folder or name of the start policy.
        processors: its tokenizer, and its image processor if it has one.
    """

    def __init__(self, model: str, processors: list[Any]) -> None:
        self._processors = processors
        self._generation_config = _generation_config(model)

    def save(self, folder: Path, policy: Any, weights: dict[str, Any]) -> None:
        """Write a folder that plain transformers can load.

        `generation_config.json` is an exact copy of the start policy's. transformers would write its own version, and
        refuses to if it considers a value wrong, such as a temperature without `do_sample`; but it loads such files, and
        public models have them. Training changes nothing in this file. If there is none, transformers has derived the
        values from `config.json`, and they are written without its checks.
        """
        from transformers import GenerationConfig
        from transformers.utils import GENERATION_CONFIG_NAME

        loaded = policy.generation_config
        try:
            policy.generation_config = GenerationConfig()  # which can always be saved
            policy.save_pretrained(folder, state_dict=weights, max_shard_size=_SHARD)
        finally:
            policy.generation_config = loaded
        for processor in self._processors:
            processor.save_pretrained(folder)
        copy = folder / GENERATION_CONFIG_NAME
        if self._generation_config is None:
            loaded.to_json_file(copy)
        else:
            copy.write_bytes(self._generation_config)


def without_weights(model: str) -> Any:
    """Return the model with parameters that have shapes but no values, on torch's device `meta`.

    Args:
        model: Hugging Face folder or name of a language model or vision-language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(model)
    text_only = config.get_text_config() is config
    kind = AutoModelForCausalLM if text_only else AutoModelForImageTextToText
    with torch.device("meta"):
        return kind.from_config(config)


def check_savable(model: str, tokenizer: Any, images: ImageInputs | None) -> None:
    """Save what a checkpoint takes from the start policy, except for the weights, into a temporary folder.

    Raises:
        ModelError: transformers can load a file of the model but cannot save it.
    """
    from transformers import AutoConfig

    saves: dict[str, Callable[[str], object]] = {
        "config.json": AutoConfig.from_pretrained(model).save_pretrained,
        "tokenizer_config.json": tokenizer.save_pretrained,
    }
    if images is not None:
        saves["preprocessor_config.json"] = images.processor.save_pretrained
    for file, save in saves.items():
        with TemporaryDirectory() as folder:
            try:
                save(folder)
            except Exception as error:  # the code of a model may raise anything
                reason = (str(error).strip().splitlines() or ["no reason given"])[0]
                raise ModelError(
                    f"model.path={model}: transformers cannot save what it loads from {file}, so no checkpoint "
                    f"could be written ({type(error).__name__}: {reason}); correct that file in a copy of the "
                    "model's folder, and give the copy as model.path"
                ) from error


def _generation_config(model: str) -> bytes | None:
    """Return the content of the model's `generation_config.json`; None if it has none."""
    from transformers.utils import GENERATION_CONFIG_NAME, cached_file

    try:
        return Path(cached_file(model, GENERATION_CONFIG_NAME)).read_bytes()
    except OSError:  # there is none; the model loads without it
        return None
