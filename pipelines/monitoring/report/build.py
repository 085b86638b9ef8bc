"""Gathers what the report shows from a run folder and fills the page with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dps_ray.errors import DataError
from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.monitoring.metrics import (
    CONFUSION,
    DISTINCT_PROMPTS,
    TOTAL_ROLLOUTS,
    TOTAL_TOKENS,
)
from pipelines.monitoring.report import charts, cost
from pipelines.monitoring.report.drawing import Chart
from pipelines.monitoring.report.pools import when_pools_worked
from pipelines.monitoring.report.troubles import troubles
from pipelines.monitoring.run_log import read_events, read_metrics, read_samples, read_summary
from pipelines.monitoring.summary import details, duration, headline, percent
from pipelines.monitoring.timeline import read_timeline

STATES = ("unsolved", "partial", "solved")


class KeyNumber(NamedTuple):
    label: str
    value: str
    note: str


class Confusion(NamedTuple):
    """Counts [predicted][seen] over a stretch of the run, and each row's shares (0 in an empty row)."""

    title: str
    counts: list[list[int]]
    shares: list[list[float]]


def build_report(run_folder: Path) -> Path:
    """Writes `report.html` into a run's folder and returns its path.

    Serves unfinished runs too; parts with nothing recorded say so or are left out.
    Raises DataError when the folder holds no metrics.
    """
    records = read_metrics(run_folder)
    if not records:
        raise DataError(f"{run_folder} has recorded no step yet: there is nothing to report")
    summary = read_summary(run_folder)
    config = run_folder / "config.yaml"
    page = _page().render(
        plotly=Markup(get_plotlyjs()),
        name=f"{summary['method']} on {summary['task']}" if summary else run_folder.resolve().name,
        seed=summary["seed"] if summary else None,
        headline=headline(summary) if summary else _unfinished(records),
        details=[*(details(summary) if summary else []), *cost.remarks(records)],
        key_numbers=key_numbers(summary or _account_so_far(records)),
        troubles=troubles(records),
        losses=read_events(run_folder),
        learning=_drawn(charts.accuracy(records), charts.reward(records)),
        choice=_drawn(charts.effective_ratio(records), charts.batch_states(records)),
        cost=_drawn(
            cost.accuracy_by_cost(records, TOTAL_ROLLOUTS),
            cost.accuracy_by_cost(records, TOTAL_TOKENS),
            cost.group_sizes(records),
        ),
        prediction=charts.prediction_quality(records),
        confusions=confusions(records),
        sampled=charts.times_sampled(summary["times_sampled"]) if summary else None,
        update=charts.update_charts(records),
        times=charts.phase_times(records),
        pools=when_pools_worked(read_timeline(run_folder)),
        samples=pick_samples(read_samples(run_folder)),
        states=STATES,
        config=config.read_text() if config.is_file() else "",
        command=summary["command"] if summary else "",
    )
    report = run_folder / "report.html"
    # A response may hold half a surrogate pair, which UTF-8 cannot.
    report.write_bytes(page.encode(errors="replace"))
    return report


def key_numbers(account: Mapping[str, Any]) -> list[KeyNumber]:
    """What to see at a glance, from summary.json or as much of it as an unfinished run knows."""
    numbers = []
    before, after = account.get("accuracy_before"), account.get("accuracy_after")
    if after:
        note = f"{percent(before['mean'])} before" if before else "held out"
        numbers.append(KeyNumber("Accuracy", percent(after["mean"]), note))
    if "gradient_share" in account:
        uniform = account["uniform_effective_ratio"]
        note = (
            "of the training rollouts" if uniform is None else f"{percent(uniform)} drawn uniformly"
        )
        numbers.append(KeyNumber("Carried gradient", percent(account["gradient_share"]), note))
    if "rollouts" in account:
        tokens = f"{account['tokens']:,} tokens"
        numbers.append(KeyNumber("Rollouts", f"{account['rollouts']:,}", tokens))
    if "distinct_prompts" in account:
        note = f"of {account['pool']:,} in the pool" if "pool" in account else "different ones"
        numbers.append(KeyNumber("Prompts", f"{account['distinct_prompts']:,}", note))
    if account["steps"]:
        pace = f"{account['seconds'] / account['steps']:.1f} s a step"
        numbers.append(KeyNumber("Steps", f"{account['steps']:,}", pace))
        numbers.append(KeyNumber("Time", duration(account["seconds"]), "without the start-up"))
    return numbers


def confusions(records: Sequence[Mapping[str, float]]) -> list[Confusion]:
    """Predicted against seen states: the whole run, then its thirds where there are enough steps."""
    predicted = [r for r in records if CONFUSION.format(predicted=1, seen=1) in r]
    if not predicted:
        return []
    stretches = [("Whole run", predicted)]
    if len(predicted) >= 9:
        third = len(predicted) // 3
        stretches += [
            ("First third", predicted[:third]),
            ("Second third", predicted[third:-third]),
            ("Last third", predicted[-third:]),
        ]
    return [_confusion(title, rows) for title, rows in stretches]


def _confusion(title: str, rows: Sequence[Mapping[str, float]]) -> Confusion:
    counts = [
        [sum(int(r[CONFUSION.format(predicted=i, seen=j)]) for r in rows) for j in (1, 2, 3)]
        for i in (1, 2, 3)
    ]
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    return Confusion(title, counts, shares)


def pick_samples(samples: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[Mapping[str, Any]]]]:
    """From the first, a middle and the last sampled step, one rollout of each solve state there is."""
    steps = sorted({sample["step"] for sample in samples})
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    picked = []
    for step in chosen:
        by_state: dict[int, Mapping[str, Any]] = {}
        for sample in samples:
            if sample["step"] == step:
                by_state.setdefault(sample["state"], sample)
        picked.append((step, [by_state[state] for state in sorted(by_state)]))
    return picked


def _account_so_far(records: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """As much of summary.json as the metrics of an unfinished run tell."""
    last: dict[str, float] = {}
    for record in records:
        last.update(record)
    account: dict[str, Any] = {
        "steps": int(last["step"]),
        "seconds": last["time"] - records[0]["time"],
    }
    evaluated = [a._asdict() for record in records if (a := held_out_accuracy(record))]
    if evaluated:
        account["accuracy_after"] = evaluated[-1]
    if len(evaluated) > 1:
        account["accuracy_before"] = evaluated[0]
    if TOTAL_ROLLOUTS in last:
        account["rollouts"] = int(last[TOTAL_ROLLOUTS])
        account["tokens"] = int(last[TOTAL_TOKENS])
    if DISTINCT_PROMPTS in last:
        account["distinct_prompts"] = int(last[DISTINCT_PROMPTS])
    return account


def _unfinished(records: Sequence[Mapping[str, float]]) -> str:
    steps = int(records[-1]["step"])
    return (
        f"This run has not finished: {steps:,} {'step is' if steps == 1 else 'steps are'} recorded."
    )


def _drawn(*wanted: Chart | None) -> list[Chart]:
    return [chart for chart in wanted if chart]


def _page() -> Any:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["script_json"] = _script_json
    return environment.get_template("report.html")


def _script_json(chart: Chart) -> Markup:
    """A figure as JSON; Plotly escapes "<" in it, so that it cannot end the script it stands in."""
    return Markup(chart.figure.to_json())
