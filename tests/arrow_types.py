"""Parquet files that are read with given Arrow types, also with those that Arrow reads and cannot write."""

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_with_types(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> Path:
    """Writes the rows in row groups of 4, with the schema that a writer of these types would store beside them."""
    table = pa.Table.from_pylist(rows)
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table, row_group_size=4)
        stored = base64.b64encode(schema.serialize().to_pybytes())
        writer.add_key_value_metadata({b"ARROW:schema": stored})
    wanted = [str(kind).replace("item:", "element:") for kind in schema.types]
    assert [str(kind) for kind in pq.read_schema(path).types] == wanted
    return path
