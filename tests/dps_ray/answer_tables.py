"""Equal and unequal answers, from tests/data: a kind, a reference, an answer, and whether the two are equal."""

import csv
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parents[1] / "data"


class Row(NamedTuple):
    kind: str
    reference: str
    answer: str
    equal: bool


def rows(name: str) -> list[Row]:
    with (DATA / f"{name}.tsv").open(newline="") as file:
        return [
            Row(row["kind"], row["reference"], row["answer"], row["equal"] == "yes")
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
