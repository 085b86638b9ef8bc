"""What a row of the table of metrics says, and a group of rows."""

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A row of the table.

    over: what the value is about. "step": this step alone. "run": everything since the run began, also across a
        resume. "start": everything since the program started. "now": the moment.
    trouble: what the report calls it where it is not zero; empty for what is no trouble.
    """

    name: str
    unit: str
    says: str
    over: Literal["step", "run", "start", "now"] = "step"
    trouble: str = ""


class Group(NamedTuple):
    """Rows about one subject, and the folder whose code writes them."""

    title: str
    folder: str
    metrics: Sequence[Metric]
