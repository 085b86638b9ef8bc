"""The columns of prompt files, which are those of verl's schema:

    data_source   string
    prompt        list of {role, content}   or a string; `dps_ray.prompts.messages` describes the forms
    reward_model  {style, ground_truth}     ground_truth of any type
    extra_info    {split, index, ...}       optional
    images        list of {bytes, path}     optional, one for each `<image>` in the contents
    ability       string                    written, not read

An optional column of type null counts as absent; pandas and polars write such a column if no row has a value. All
Arrow types of text, bytes and lists are accepted: see `dps_ray.prompts.arrow_types`.
"""

import pyarrow as pa

from dps_ray.errors import DataError
from dps_ray.prompts.arrow_types import one_type
from dps_ray.prompts.messages import is_prompt

REQUIRED = ("data_source", "prompt", "reward_model")
OPTIONAL = ("extra_info", "images")


def has_values(schema: pa.Schema, column: str) -> bool:
    """Whether there is a column of this name whose type is not null."""
    return column in schema.names and not pa.types.is_null(schema.field(column).type)


def check_schema(schema: pa.Schema, name: str, id_column: str | None) -> None:
    """Raises DataError if a column is missing or has another type. `name`: the file's, for the message."""
    required = [*REQUIRED, *([id_column] if id_column else [])]
    for column in required:
        if column not in schema.names:
            raise DataError(
                f"{name} has no column {column!r} (it has: {', '.join(schema.names)}); "
                f"verl's schema needs {', '.join(required)}"
            )
    wants = [
        ("data_source", pa.types.is_string, "strings"),
        (
            "prompt",
            is_prompt,
            "lists of {role: string, content: string}, contents that are lists of "
            "{type: string, text: string}, or strings",
        ),
        ("reward_model", _has_ground_truth, "{style, ground_truth}"),
        ("extra_info", pa.types.is_struct, "{split, index, ...}"),
        ("images", pa.types.is_list, "lists"),
    ]
    if id_column:
        wants.append((id_column, pa.types.is_integer, "64-bit integers, as id_column requires"))
    for column, holds, what in wants:
        there = column in required or has_values(schema, column)
        if there and not holds(one_type(schema.field(column))):
            raise DataError(
                f"{name}, column {column!r}: the type is {schema.field(column).type}; make it {what}"
            )


def _has_ground_truth(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("ground_truth") >= 0)
