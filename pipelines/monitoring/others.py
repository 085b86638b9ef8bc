"""What a run saved against other runs at equal accuracy, by what they were measured to take."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dps_ray.errors import ConfigError, DataError
from pipelines.monitoring.accuracy_curve import Spent, curve_of, mean_points, spending_of
from pipelines.monitoring.run_log import METRICS, read_summary

CURVES, EQUAL_ACCURACY = "curves.csv", "equal_accuracy.csv"  # of a comparison


class Other(NamedTuple):
    """A method, with what each of its runs had spent after each step."""

    name: str
    seeds: list[list[Spent]]


def others_in(folder: Path) -> list[Other]:
    """The runs in a folder to compare with: of a comparison uniform sampling and the strongest Dynamic Sampling, or one run.

    Raises:
        ConfigError: the folder is neither the report of a comparison nor that of a run, or there is no such method.
        DataError: its files are damaged, or accuracy was not measured.
    """
    if (folder / CURVES).is_file():
        others = _of_comparison(folder)
    elif (folder / METRICS).is_file():
        summary = read_summary(folder) or {}
        others = [Other(str(summary.get("method", folder.resolve().name)), [spending_of(folder)])]
    else:
        raise ConfigError(
            f"report.compared_with={folder} holds neither {CURVES} nor {METRICS}: give the report folder of a comparison, "
            "such as runs/comparison/report, or the folder of a run"
        )
    for other in others:
        if not mean_points(other.seeds):
            raise DataError(f"report.compared_with={folder}: {other.name} has no measured accuracy")
    return others


def _of_comparison(folder: Path) -> list[Other]:
    found: dict[str, dict[str, list[Spent]]] = {}
    try:
        for row in _rows(folder / CURVES):
            spent = Spent(
                int(row["step"]),
                int(row["rollouts"]),
                int(row["tokens"]),
                float(row["seconds"]),
                float(row["engine_seconds"]) if row.get("engine_seconds") else None,
                float(row["accuracy"]) if row["accuracy"] else None,
            )
            found.setdefault(row["method"], {}).setdefault(row["seed"], []).append(spent)
        ends = {row["reference"]: float(row["target"]) for row in _rows(folder / EQUAL_ACCURACY)}
    except (KeyError, ValueError) as error:
        raise DataError(f"report.compared_with={folder}: damaged file: {error!r}") from None
    names = [*(["uniform"] if "uniform" in found else []), *sorted(ends, key=ends.__getitem__)[-1:]]
    if not names:
        raise ConfigError(
            f"report.compared_with={folder} has neither uniform sampling nor Dynamic Sampling, only {', '.join(found)}"
        )
    return [Other(name, list(found[name].values())) for name in names]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def savings(
    ours: Spent, others: Sequence[Other], price_per_engine_hour: float
) -> list[dict[str, Any]]:
    """What each of these took more to the accuracy in which a run ended, as plain values for JSON.

    Rollouts, tokens and engine time are where a monotone fit to the mean curve over seeds reaches that accuracy. Engine times are
    as they were measured, maybe on other machines.

    Args:
        ours: what the run had spent in the end, and its accuracy, which must be known.

    Returns:
        For each: `against`, `seeds`, `reached`, `took` (rollouts), and what that is more than the run's own, negative where
        less: `rollouts`, `tokens`, `engine_seconds` and `money`. Where the accuracy is not reached, `took` is all its
        rollouts and the rest is None; so are time and money where they are not known.
    """
    assert ours.accuracy is not None
    found = []
    for name, seeds in others:
        curve = curve_of(seeds, "rollouts")
        taken = curve.cost_to(ours.accuracy)
        rollouts, tokens, seconds = (
            _more(ours, seeds, cost) for cost in ("rollouts", "tokens", "engine_seconds")
        )
        money = None
        if seconds is not None and price_per_engine_hour:
            money = seconds / 3600 * price_per_engine_hour
        found.append(
            {
                "against": name,
                "seeds": len(seeds),
                "reached": taken is not None,
                "took": round(curve.end if taken is None else taken),
                "rollouts": None if rollouts is None else round(rollouts),
                "tokens": None if tokens is None else round(tokens),
                "engine_seconds": seconds,
                "money": money,
            }
        )
    return found


def _more(ours: Spent, seeds: Sequence[Sequence[Spent]], cost: str) -> float | None:
    """What others took more than a run to its accuracy; None where they do not reach it, or either did not measure it."""
    own = getattr(ours, cost)
    if own is None or any(getattr(point, cost) is None for points in seeds for point in points):
        return None
    assert ours.accuracy is not None
    taken = curve_of(seeds, cost).cost_to(ours.accuracy)
    return None if taken is None else taken - own
