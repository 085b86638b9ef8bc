"""The table of metrics holds every metric that a run writes, and nothing that none writes."""

import ast
from pathlib import Path

import pytest

from pipelines.monitoring import metrics
from pipelines.monitoring.loggers import GAUGES
from pipelines.monitoring.metrics import METRICS, PLACEHOLDERS, TABLE, describe
from pipelines.monitoring.run_log import read_metrics

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).parents[1] / "data" / "run"


def not_in_the_table(folder):
    """The metrics of a run that the table has no row for."""
    written = {name for record in read_metrics(folder) for name in record}
    return {name for name in written - {"step", "time"} if describe(name) is None}


def names_in_code():
    """The texts that look like a metric in the product's functions called `metrics`, as (file, text)."""
    for file in sorted(
        path for room in ("dps_ray", "actors", "pipelines") for path in (ROOT / room).rglob("*.py")
    ):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name.endswith("metrics"):
                for key in (
                    key
                    for node in ast.walk(function)
                    if isinstance(node, ast.Dict)
                    for key in node.keys
                ):
                    if isinstance(key, ast.Constant) and "/" in str(key.value):
                        yield file.name, key.value


def test_the_table_has_a_row_for_every_metric_of_the_recorded_run():
    assert not_in_the_table(RECORDED) == set()


def test_the_table_has_a_row_for_every_metric_that_selectors_and_actors_name():
    found = list(names_in_code())
    assert len(found) > 20
    assert [(file, name) for file, name in found if describe(name) is None] == []


@pytest.mark.slow
def test_the_table_has_a_row_for_every_metric_of_a_run_of_two_of_everything(finished):
    assert not_in_the_table(finished) == set()


@pytest.mark.parametrize("group", TABLE, ids=lambda group: group.title)
def test_the_folder_of_a_group_writes_its_metrics(group):
    texts = [
        file.read_text()
        for file in (ROOT / group.folder).rglob("*.py")
        if file != Path(metrics.__file__)
    ]
    for metric in group.metrics:
        fixed = metric.name.partition("{")[0]
        folder, slash, last = fixed.rpartition("/")
        assert any(
            (folder + slash in text and last in text) or fixed in _imported(text) for text in texts
        ), metric.name


def _imported(text):
    """The names of metrics that a file imports from the table, and not as text."""
    words = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    return {
        str(getattr(metrics, word)).partition("{")[0]
        for word in words
        if isinstance(getattr(metrics, word, None), str)
    }


def test_a_name_is_in_the_table_once():
    assert len(METRICS) == sum(len(group.metrics) for group in TABLE)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("timing_s/train", "timing_s/{phase}"),
        ("timing_s/step", "timing_s/step"),
        ("timing_s/prompt-9", None),
        ("recovery/restarts", "recovery/restarts"),
        ("recovery/restarts/belief_shard", "recovery/restarts/{kind}"),
        ("val-core/openai/gsm8k/acc/mean@16", "val-core/{source}/acc/mean@{n}"),
        ("val-core/all/acc/pass@16", "val-core/{source}/acc/pass@{n}"),
        ("tasksample_hmmpred_cm/23", "tasksample_hmmpred_cm/{predicted}{seen}"),
        ("tasksample_hmmpred_cm/24", None),
        ("faults/engine_restarts", None),
    ],
)
def test_a_metric_has_the_row_whose_pattern_it_fits(name, row):
    found = describe(name)
    assert (found.name if found else None) == row


def test_every_placeholder_is_explained_and_every_gauge_is_of_a_row():
    for name in METRICS:
        assert {part.partition("}")[0] for part in name.split("{")[1:]} <= set(PLACEHOLDERS)
    assert set(GAUGES) <= set(METRICS)
