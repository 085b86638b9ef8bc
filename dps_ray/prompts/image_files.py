"""Images of prompts as encoded files: reading them from a row, checking and decoding them with Pillow.

Images are stored and sent encoded. Decoded and cut into patches, they are ten to a hundred times larger.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import Image


def encoded(entry: Any, read: Callable[[str], bytes]) -> bytes:
    """The encoded image file in an entry of the column `images`. An entry is {bytes, path}, as in verl's schema, or
    either of the two alone.

    Args:
        read: returns the content of a file, given its path.

    Raises:
        ValueError: the entry has no readable file; the message says why.
    """
    if isinstance(entry, Mapping):
        found = entry.get("bytes")
        entry = entry.get("path") if found is None else found
    if isinstance(entry, bytes):
        return entry
    if not isinstance(entry, str):
        raise ValueError("has neither bytes nor a path")
    try:
        return read(entry)
    except OSError as error:
        raise ValueError(f"cannot be read: {error}") from None


def size(file: bytes) -> tuple[int, int]:
    """Height and width in pixels, from the file's header.

    Raises:
        ValueError: Pillow does not recognise the file as an image.
    """
    with _opened(file) as image:
        return image.height, image.width


def check(file: bytes) -> None:
    """Checks that the file is complete.

    A PNG is checked by its checksums, 100 times faster than decoding it. Other formats are decoded; a JPEG at down to
    an eighth of its size, which is faster.

    Raises:
        ValueError: the file is damaged; the message says why.
    """
    with _opened(file) as image:
        if image.format == "PNG":
            image.verify()
        else:
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()


def decode(file: bytes) -> Image.Image:
    """The image in RGB, with transparent parts drawn on white.

    Raises:
        ValueError: the file cannot be decoded; the message says why.
    """
    with _opened(file) as image:
        if not image.has_transparency_data:
            return image.convert("RGB")
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


@contextmanager
def _opened(file: bytes) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(file)) as image:
                yield image
    # Pillow's decoders raise many types of exceptions for a damaged file.
    except Exception as error:
        reason = "no image that Pillow knows" if "cannot identify" in str(error) else str(error)
        raise ValueError(f"is no readable image ({reason}, {len(file)} bytes)") from error
