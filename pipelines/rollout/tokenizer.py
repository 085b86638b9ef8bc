"""The tokenizer of a model, with a chat template."""

from pathlib import Path
from typing import Any

from dps_ray.errors import ModelError


def load_tokenizer(model: str, chat_template: str | None) -> Any:
    """The model's tokenizer, with a chat template.

    Raises:
        ModelError: the model is missing; or its tokenizer has no chat template and none is given; or the given template
            is neither a file nor a template.
    """
    from transformers import AutoConfig, AutoTokenizer

    # Any other text may be the name of a model on the hub.
    if model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise ModelError(f"model.path={model}: there is no such folder")
    try:
        AutoConfig.from_pretrained(model)
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model.path={model} is no model: {reason}; write the path of a Hugging Face folder "
            "(config.json, weights, tokenizer) or the name of a model on the hub"
        ) from None
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
