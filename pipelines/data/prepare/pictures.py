"""Pictures of a user's rows, decoded once to see that they can be."""

from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.data.prepare.records import Record

_KEPT = ("PNG", "JPEG")  # kinds of file that stay as they are


def pictures(record: Record, column: str) -> list[dict[str, Any]]:
    """A row's pictures as verl has them, {"bytes": ..., "path": None} each.

    The column holds one or a list of: a file's bytes, its path as seen from the file of the row, or
    {"bytes", "path"}. What is neither PNG nor JPEG is written again as PNG.

    Raises:
        DataError: there is none, or one cannot be read or decoded; names file, row and column.
    """
    value = record.fields.get(column)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not values:
        raise record.error(column, "has no picture; give at least one")
    return [{"bytes": _encoded(record, column, one), "path": None} for one in values]


def _encoded(record: Record, column: str, value: Any) -> bytes:
    content = _content(record, column, value)
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
            if image.format in _KEPT:
                return content
            again = BytesIO()
            image.convert("RGB").save(again, "PNG")
            return again.getvalue()
    # A file that is none breaks Pillow's readers in more ways than they list.
    except Exception as error:
        raise record.error(
            column, f"is no picture that can be read: {error}; write it again, as PNG or JPEG"
        ) from error


def _content(record: Record, column: str, value: Any) -> bytes:
    """The bytes of an encoded picture."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise record.error(
            column,
            f'is {str(value)[:60]!r}; write an encoded picture, its path, or {{"bytes", "path"}}',
        )
    try:
        return (record.file.parent / Path(value)).read_bytes()
    except OSError as error:
        raise record.error(column, f"{value} cannot be read: {error.strerror}") from error
