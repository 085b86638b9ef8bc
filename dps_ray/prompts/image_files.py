"""The images of prompts, as encoded files: taken from a row, checked and decoded with Pillow.

They stay encoded wherever they travel; decoded and cut into patches they are ten to a hundred times larger.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image


def encoded(entry: Any, folder: Path) -> bytes:
    """The file in an entry of the column `images`: {bytes, path}, as verl has it, or either of the two.

    Args:
        folder: that paths are relative to.

    Raises:
        ValueError: there is none; says why.
    """
    if isinstance(entry, Mapping):
        found = entry.get("bytes")
        entry = entry.get("path") if found is None else found
    if isinstance(entry, bytes):
        return entry
    if not isinstance(entry, str):
        raise ValueError("has neither bytes nor a path")
    try:
        return (folder / entry).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}: {folder / entry}") from None


def size(file: bytes) -> tuple[int, int]:
    """Height and width in pixels, from the file's header.

    Raises:
        ValueError: it is no image that Pillow knows.
    """
    with _opened(file) as image:
        return image.height, image.width


def check(file: bytes) -> None:
    """Look whether the file is whole: a PNG by its checksums, 100 times faster than it decodes; others decoded,
    a JPEG at an eighth of its size, as far as that is faster.

    Raises:
        ValueError: it is not; says why.
    """
    with _opened(file) as image:
        if image.format == "PNG":
            image.verify()
        else:
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()


def decode(file: bytes) -> Image.Image:
    """The image in RGB; what is transparent lies on white.

    Raises:
        ValueError: it cannot be decoded; says why.
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
    # Pillow's decoders raise whatever they meet in a broken file.
    except Exception as error:
        reason = "no image that Pillow knows" if "cannot identify" in str(error) else str(error)
        raise ValueError(f"is no readable image ({reason}, {len(file)} bytes)") from error
