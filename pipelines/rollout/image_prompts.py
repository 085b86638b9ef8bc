"""Prompts with images in the chat template: the position and the number of tokens of each image.

As in verl, the contents of the messages have one `<image>` for each image of the row.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.images import SUPPORTED, ImageInputs
from dps_ray.errors import DataError
from dps_ray.prompts import image_files
from dps_ray.prompts.dataset import Prompt

MARK = "<image>"


def messages_with_images(prompt: Prompt) -> list[dict[str, Any]]:
    """The messages with contents split into text and image parts, as chat templates of vision-language models need."""
    return [
        {"role": message["role"], "content": _parts(message["content"])}
        for message in prompt.messages
    ]


def _parts(content: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for index, text in enumerate(content.split(MARK)):
        if index:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def expanded(
    tokens: Sequence[int], prompt: Prompt, inputs: ImageInputs | None, model: str, place: str
) -> NDArray[np.int32]:
    """The tokens of a prompt, with each image's placeholder repeated as often as the image has tokens.

    Args:
        tokens: the prompt's tokens after the chat template.
        inputs: the model's image inputs; None if it takes no images.
        model: the model's path, for error messages.
        place: the prompt's file and row, for error messages.

    Raises:
        DataError: the model takes no images, an image has no readable header, or the number of placeholders differs
            from the number of images.
    """
    if inputs is None:
        raise DataError(
            f"{place} has images, and {model} takes none: give model.path a vision-language model of type "
            f"{' or '.join(SUPPORTED)}, such as Qwen2.5-VL-3B-Instruct"
        )
    marks = sum(str(message["content"]).count(MARK) for message in prompt.messages)
    if marks != len(prompt.images):
        raise DataError(
            f"{place}, column 'images': {len(prompt.images)} images for {marks} {MARK} in column 'prompt'; "
            f"write {MARK} where each image belongs"
        )
    counts = []
    for index, file in enumerate(prompt.images):
        try:
            counts.append(inputs.tokens(*image_files.size(file)))
        except ValueError as error:
            raise bad_image(place, prompt, index, error) from None
    try:
        return inputs.expand(np.array(tokens, dtype=np.int32), counts)
    except ValueError as error:
        raise DataError(
            f"{place}, prompt {prompt.id}: after the chat template of {model} it has {error}; remove the model's own "
            "placeholder from the text, or give a model.chat_template that writes it for images"
        ) from None


def check_images(prompt: Prompt, place: str) -> None:
    """Checks that the prompt's image files are complete.

    Raises:
        DataError: an image file is damaged.
    """
    for index, file in enumerate(prompt.images):
        try:
            image_files.check(file)
        except ValueError as error:
            raise bad_image(place, prompt, index, error) from None


def bad_image(place: str, prompt: Prompt, index: int, error: ValueError) -> DataError:
    """The error to raise for an image of a prompt."""
    return DataError(
        f"{place}, column 'images': image {index} of prompt {prompt.id} {error}; replace the file by an intact one, "
        "or leave the row out"
    )
