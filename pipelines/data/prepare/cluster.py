"""Copies Parquet files and adds a column of cluster numbers, for methods that learn by clusters of prompts.

    python -m pipelines.prepare cluster --data train.parquet --column extra_info.level --out data/by_level
    python -m pipelines.prepare cluster --data train.parquet --embed tfidf --k 64 --out data/by_words

--column makes one cluster for each value of a column, or for each combination of values of several columns.
--embed clusters the prompts' texts by k-means. tfidf needs no model: it uses hashed character n-grams, weighted by
TF-IDF. A Hugging Face folder or model name uses the mean of the model's last hidden states. k-means is fitted to a
sample of rows and then applied to all rows in a stream, so ten million rows need no more memory than the sample.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from threadpoolctl import threadpool_limits

from dps_ray.errors import DataError
from dps_ray.paths import path_option
from dps_ray.prompts.arrow_types import batches, cast, one_type
from dps_ray.prompts.files import PromptFile
from dps_ray.prompts.messages import message_texts
from pipelines.data.prepare.output import add_output, check_vacant, whole_folder
from pipelines.data.prepare.progress import progress

COLUMN = "cluster"
SAMPLE = 20_000  # rows that k-means is fitted to, or 20 for each cluster if that is more
# Rows that are read and labelled at a time, and rows of a written row group.
_BATCH, _ROW_GROUP = 8_192, 1_024
_WITH_PICTURES = 64  # rows of a row group if rows hold pictures
_SEPARATOR = "\x1d"

Label = Callable[[pa.RecordBatch], NDArray[np.int32]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    parser.add_argument(
        "--data",
        type=path_option,
        nargs="+",
        required=True,
        metavar="FILE",
        help="Parquet files in verl's schema",
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument(
        "--column",
        nargs="+",
        metavar="NAME",
        help="make a cluster for each value of this column, or of a field such as extra_info.level",
    )
    way.add_argument(
        "--embed",
        metavar="tfidf|MODEL",
        help="cluster the prompts' texts by k-means, with tfidf or the hidden states of this model",
    )
    parser.add_argument("--k", type=int, default=64, help="number of k-means clusters (64)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of k-means; the same seed gives the same clusters (0)",
    )


def run(options: argparse.Namespace, console: Console) -> None:
    check_vacant(options.out, options.force)
    files = [PromptFile(file, id_column=None) for file in options.data]
    names = [_path(file).name for file in files]
    if len(set(names)) < len(names):
        raise DataError(f"--data has two files called {max(names, key=names.count)}; rename one")
    # With one thread, sums and therefore clusters do not depend on the number of cores.
    with threadpool_limits(1), whole_folder(options.out, options.force) as folder:
        for file in files:
            _check(file, console)
        if options.column:
            label = _by_columns(files, options.column, console)
        else:
            label = _by_text(files, options, console)
        parts = [part for file in files for part in _copy(file, folder, label, console)]
    for file in files:
        console.print(f"wrote {options.out / _path(file).name}: {len(file):,} prompts")
    sizes = np.unique(np.concatenate(parts), return_counts=True)[1]
    console.print(
        f"{len(sizes):,} clusters of {sizes.min():,} to {sizes.max():,} prompts (median {np.median(sizes):,.0f}), "
        f"in the column {COLUMN}\n"
        f"train with them: python -m pipelines.grpo_dps method=dps_pooled selector.cluster_column={COLUMN} "
        f"data.train={options.out / names[0]} model.path=MODEL"
    )


def _path(file: PromptFile) -> Path:
    return Path(file.name)


def _check(file: PromptFile, console: Console) -> None:
    """Raises a DataError if training could not read all rows."""
    with progress(f"checking {_path(file).name}", len(file), console) as show:
        done = 0
        for keys in file.checked_keys():
            done += len(keys.contents)
            show(done)


def _by_columns(files: list[PromptFile], columns: list[str], console: Console) -> Label:
    """Returns a function that labels rows. Each combination of values in any file is a cluster; clusters are numbered
    in the sorted order of these values."""
    found: set[str] = set()
    for file in files:
        with progress(f"values in {_path(file).name}", len(file), console) as show:
            first = 0
            for batch in _batches(_path(file), columns):
                try:
                    values = _values(batch, columns)
                except pa.ArrowNotImplementedError as error:
                    raise DataError(
                        f"{file.name}, column {' or '.join(columns)!r}: {error}; name a column of strings or numbers"
                    ) from error
                row = pc.index(pc.is_null(values), True).as_py()
                if row >= 0:
                    raise DataError(
                        f"{file.name}, row {first + row}, column {' or '.join(columns)!r}: is null; give every "
                        "row a value"
                    )
                found.update(values.unique().to_pylist())
                first += len(batch)
                show(first)
    known = pa.array(sorted(found), pa.string())
    return lambda batch: pc.index_in(_values(batch, columns), known).to_numpy()


def _values(batch: pa.RecordBatch, columns: list[str]) -> pa.StringArray:
    return pc.binary_join_element_wise(
        *(_texts_of(batch, column) for column in columns), _SEPARATOR
    )


def _texts_of(batch: pa.RecordBatch, column: str) -> pa.StringArray:
    """A column, or a field of a column given by its path, as strings."""
    top, *fields = column.split(".")
    values = batch[top]
    for field in fields:
        values = pc.struct_field(values, field)
    return pc.cast(values, pa.string())


def _by_text(files: list[PromptFile], options: argparse.Namespace, console: Console) -> Label:
    """Returns a function that labels rows by k-means, which is fitted to a sample of the prompts' texts."""
    total = sum(map(len, files))
    if not 1 <= options.k <= total:
        raise DataError(
            f"--k {options.k}: there are {total:,} prompts; ask for 1 to {total:,} clusters"
        )
    if not 0 <= options.seed < 2**32:
        raise DataError(f"--seed {options.seed}: write 0 to {2**32 - 1}")
    # Imported here because scikit-learn takes 2 s to import, and other tasks do not need it.
    from sklearn.cluster import MiniBatchKMeans

    from pipelines.data.prepare.embedding import Embedding, ModelEmbedding, TfidfEmbedding

    embedding: Embedding = (
        TfidfEmbedding()
        if options.embed == "tfidf"
        else ModelEmbedding(os.path.expanduser(options.embed))
    )
    size = min(total, max(SAMPLE, 20 * options.k))
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(options.seed).choice(total, size, replace=False)] = True
    texts: list[str] = []
    first = 0
    for batch in chain.from_iterable(file.texts() for file in files):
        texts += batch.filter(pa.array(chosen[first : first + len(batch)])).to_pylist()
        first += len(batch)
    embedding.fit(texts)
    # No early stop, because its criterion is a sum that differs between machines.
    kmeans = MiniBatchKMeans(
        options.k,
        batch_size=4096,
        max_iter=30,
        max_no_improvement=None,
        n_init=1,
        random_state=options.seed,
    )
    console.print(f"k-means, {options.k:,} clusters, fitted to {size:,} of {total:,} prompts")
    kmeans.fit(embedding(texts))

    def label(batch: pa.RecordBatch) -> NDArray[np.int32]:
        labels: NDArray[np.int32] = kmeans.predict(
            embedding(message_texts(batch["prompt"]).to_pylist())
        )
        return labels

    return label


def _copy(
    file: PromptFile, folder: Path, label: Label, console: Console
) -> Iterator[NDArray[np.int32]]:
    """Writes a copy of a file with the cluster column, and yields that column's values."""
    read = pq.read_schema(_path(file))
    # Arrow reads nested view types such as string_view, but cannot write them to Parquet.
    fields = [field.with_type(one_type(field)) for field in read]
    schema = pa.schema(fields, read.metadata)
    place = schema.get_field_index(COLUMN)
    if place >= 0:
        schema = schema.remove(place)
    group = _WITH_PICTURES if "images" in schema.names else _ROW_GROUP
    with (
        progress(_path(file).name, len(file), console) as show,
        pq.ParquetWriter(
            folder / _path(file).name, schema.append(pa.field(COLUMN, pa.int32()))
        ) as writer,
    ):
        done = 0
        for batch in _batches(_path(file), schema.names, group * _BATCH // _ROW_GROUP):
            labels = label(batch).astype(np.int32)
            columns = [cast(*each) for each in zip(batch.columns, schema.types, strict=True)]
            table = pa.Table.from_arrays(columns, schema=schema)
            table = table.append_column(COLUMN, pa.array(labels))
            writer.write_table(table, row_group_size=group)
            done += len(batch)
            show(done)
            yield labels


def _batches(file: Path, columns: list[str], size: int = _BATCH) -> Iterator[pa.RecordBatch]:
    """Yields these columns, or fields of columns given by their paths, some rows at a time."""
    parquet = pq.ParquetFile(file, memory_map=True)
    for column in columns:
        kind: pa.DataType = pa.struct(list(parquet.schema_arrow))
        for part in column.split("."):
            fields = [field.name for field in kind] if pa.types.is_struct(kind) else []
            if part not in fields:
                raise DataError(
                    f"{file} has no column {column!r}: there is no {part!r} (there is: "
                    f"{', '.join(fields) or 'nothing'}); name another column with --column"
                )
            kind = kind.field(part).type
    try:
        yield from batches(parquet, size, columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}; make the file again") from error
