"""What went wrong in a run, counted from its metrics."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.monitoring.metric_rows import Metric
from pipelines.monitoring.metrics import describe
from pipelines.monitoring.report.drawing import Record


def troubles(records: Sequence[Record]) -> list[tuple[str, int]]:
    """What went wrong and how often, over the whole run; what never happened is left out."""
    rows = {
        name: row
        for record in records
        for name in record
        if (row := describe(name)) and row.trouble
    }
    counts = [(_words(row, name), int(total(records, name))) for name, row in rows.items()]
    return [(words, count) for words, count in counts if count]


def total(records: Sequence[Record], name: str) -> float:
    """What a metric of the table comes to over a run.

    A count since the program's start begins at 0 again when another process continues the run. A value that falls
    is taken for that, and the counts before and after are added up.
    """
    row = describe(name)
    values = [record[name] for record in records if name in record]
    if row is None or not values:
        return 0.0
    if row.over == "step":
        return sum(values)
    if row.over == "start":
        pairs = zip([0.0, *values], values, strict=False)
        return sum(now - before if now >= before else now for before, now in pairs)
    return values[-1]


def _words(row: Metric, name: str) -> str:
    """The row's words for trouble; `{kind}` in them is the last part of the metric's name."""
    return row.trouble.format(kind=name.rpartition("/")[2].replace("_", " "))
