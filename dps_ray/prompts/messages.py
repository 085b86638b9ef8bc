"""Messages of prompts, in the three forms that files may use.

`as_messages` converts each of these forms into the first:

    [{role, content: "1+1="}]                            messages
    [{role, content: [{type: "text", text: "1+1="}]}]    messages whose contents are lists of parts
    "1+1="                                               a string, read as one message of role user
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dps_ray.prompts.arrow_types import cast, lengths_of, lists, one_type

FIELD, _MESSAGE = "\x1d", "\x1e"  # ASCII group and record separators, between hashed parts


class OtherPart(NamedTuple):
    """A part of a message's content that is not text."""

    row: int  # of the prompt
    what: str  # how an error names the part


def is_prompt(kind: pa.DataType) -> bool:
    """Whether a column of this type holds prompts in one of the three forms. `kind` is a result of `one_type`."""
    if not pa.types.is_list(kind):
        return bool(pa.types.is_string(kind))
    message = _fields(kind.value_type)
    texts = [message.get("role"), message.get("content")]
    if _has_parts(kind):
        part = _fields(message["content"].value_type)
        texts = [message.get("role"), part.get("type"), part.get("text")]
    return all(text is not None and pa.types.is_string(text) for text in texts)


def as_messages(prompts: pa.Array) -> pa.ListArray:
    """Converts prompts of any accepted type and form to lists of {role, content}, both strings.

    The texts of a content's parts are joined without a separator, as chat templates do. The caller must first
    reject parts that are not text; `other_part` finds them.
    """
    prompts = cast(prompts, one_type(pa.field("prompt", prompts.type)))
    if pa.types.is_string(prompts.type):
        texts = prompts.drop_null()
        roles = pa.repeat("user", len(texts))
        messages = pa.StructArray.from_arrays([roles, texts], ["role", "content"])
        return lists(pc.if_else(prompts.is_valid(), 1, None), messages)
    if not _has_parts(prompts.type):
        return prompts
    messages = prompts.flatten()
    contents = pc.struct_field(messages, "content")
    parts = pc.struct_field(contents.flatten(), "text")
    texts = pc.binary_join(lists(pc.list_value_length(contents), parts), "")
    roles = pc.struct_field(messages, "role")
    joined = pa.StructArray.from_arrays([roles, texts], ["role", "content"])
    return lists(pc.list_value_length(prompts), joined)


def other_part(prompts: pa.Array) -> OtherPart | None:
    """The first content part that is not text, or None. `prompts` has the type that `one_type` returns."""
    if not _has_parts(prompts.type):
        return None
    contents = pc.struct_field(prompts.flatten(), "content")
    parts = contents.flatten()
    kinds, texts = (pc.struct_field(parts, name) for name in ("type", "text"))
    wrong = pc.or_(pc.fill_null(pc.not_equal(kinds, "text"), True), pc.is_null(texts))
    place = pc.index(wrong, True).as_py()
    if place < 0:
        return None
    kind = kinds[place].as_py()
    row = pc.index(holds_any(prompts, holds_any(contents, wrong)), True).as_py()
    return OtherPart(row, f"type {kind!r}" if kind != "text" else "type 'text' without a text")


def holds_any(lists: pa.ListArray, chosen: pa.BooleanArray) -> pa.BooleanArray:
    """Whether each list holds a chosen value. `chosen` has one entry for each value in all lists together."""
    holds = np.zeros(len(lists), dtype=bool)
    rows = np.repeat(np.arange(len(lists)), lengths_of(pc.list_value_length(lists)))
    holds[rows[chosen.to_numpy(zero_copy_only=False)]] = True
    return pa.array(holds)


def message_texts(prompts: pa.Array) -> pa.StringArray:
    """The text of each prompt: its messages' contents, joined by newlines. Accepts any type and form of prompts."""
    messages = as_messages(prompts)
    texts = pc.struct_field(messages.flatten(), "content")
    return pc.binary_join(lists(pc.list_value_length(messages), texts), "\n")


def marked_messages(messages: pa.ListArray) -> pa.StringArray:
    """The roles and contents of each prompt's messages as one string per prompt, for hashing."""
    flat = messages.flatten()
    texts = pc.binary_join_element_wise(
        pc.struct_field(flat, "role"), pc.struct_field(flat, "content"), FIELD
    )
    return pc.binary_join(lists(pc.list_value_length(messages), texts), _MESSAGE)


def _has_parts(kind: pa.DataType) -> bool:
    """Whether this type is that of messages whose contents are lists of parts."""
    fields = _fields(kind.value_type) if pa.types.is_list(kind) else {}
    return bool(pa.types.is_list(fields.get("content", pa.null())))


def _fields(kind: pa.DataType) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
