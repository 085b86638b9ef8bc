"""Pictures in a user's rows, each decoded once to check it."""

from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.data.prepare.records import Record

_KEPT = ("PNG", "JPEG")  # formats that are kept unchanged


def pictures(record: Record, column: str) -> list[dict[str, Any]]:
    """A row's pictures in verl's form, each {"bytes": ..., "path": None}.

    The column holds one picture or a list of pictures. A picture is a file's bytes, its path relative to
    the folder of the row's file, or {"bytes", "path"}. Formats other than PNG and JPEG are converted to
    PNG.

    Raises:
        DataError: the row has no picture, or one cannot be read or decoded; the message names file, row and column.
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
    # Pillow's readers raise more types of exceptions than they document.
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
