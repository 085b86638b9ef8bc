"""What a finished run predicted of each prompt before it was rolled out, and what was then found.

The run's folder holds only the observations, which are enough: a method that observes the same in the same order
predicts the same. So it also predicts prompts that it did not choose, those of the uniform probe.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.states import Observation, states_of
from dps_ray.config import settings
from dps_ray.durable import Storage, committed, load, manifests
from dps_ray.errors import DataError
from dps_ray.selection import methods
from dps_ray.selection.clusters import Clusters, number_within
from dps_ray.selection.coverage import CoverageLimits
from dps_ray.selection.selector import Context, Selector
from dps_ray.selection.signal import score_of
from pipelines.monitoring.run_log import PROBES

Where = Literal["batch", "probe"]


class Forecast(NamedTuple):
    """Prompts of one step, by what is known after the step before.

    on:        whether the method chose them (batch) or they were drawn uniformly (probe)
    predicted: float64 (n, 3), P(unsolved), P(partial), P(solved)
    states:    int (n,), as then found
    """

    step: int
    on: Where
    predicted: NDArray[np.float64]
    states: NDArray[np.integer]


class Replay(NamedTuple):
    """A run, observed again.

    selector:     over every prompt that was ever rolled out, after the last step; without what a run began with
    observations: by step
    forecasts:    ascending by step; none for a method that predicts nothing, or that began with `selector.start`
    """

    selector: Selector
    observations: Mapping[int, Observation]
    forecasts: list[Forecast]


def replayed(folder: Path) -> Replay:
    """The run in this folder, up to its newest checkpoint.

    Raises:
        DataError: it has none, or it has several sources.
        CheckpointError: its observation log is damaged.
    """
    config = settings.load(folder / "config.yaml")
    storage = Storage.at(config.checkpoint.storage or folder)  # the folder may have been moved
    names = manifests(storage)
    if not names:
        raise DataError(f"{folder} holds no checkpoint: it is no finished run")
    steps = committed(storage, load(storage, names[0]))
    observations = {step: observation.split()[0] for step, observation in steps}
    if any(observation.sources is not None for observation in observations.values()):
        raise DataError(
            f"{folder} is a run with data.weights, whose sources have beliefs of their own; compare runs without "
            "data.weights"
        )
    probes = read_probes(folder)
    ids = np.unique(np.concatenate([o.ids for o in (*observations.values(), *probes.values())]))
    clusters = _clusters(ids, [*observations.values(), *probes.values()], config.seed)
    context = Context(
        config.seed,
        len(ids),
        config.rollout.group_size,
        config.states,
        clusters,
        score_of(config.objective.baseline, config.objective.scale),
    )
    selector = methods.make(config.method, ids, config.selector, context)
    # What beliefs began with is about the whole pool, and only a part of it is here.
    began = getattr(config.selector, "start", None) is not None
    forecasts = []
    for step, observation in observations.items():
        found: dict[Where, Observation | None] = {"batch": observation, "probe": probes.get(step)}
        for on, outcome in found.items():
            predicted = None if outcome is None or began else predictions(selector, outcome.ids)
            if outcome is not None and predicted is not None:
                forecasts.append(Forecast(step, on, predicted, outcome.states))
        # Ranks counted the whole pool, and only a part of it is here.
        selector.observe(observation._replace(clusters=None, ranks=None))
    return Replay(selector, observations, forecasts)


def _clusters(
    ids: NDArray[np.int64], observations: Iterable[Observation], seed: int
) -> Clusters | None:
    """Of these prompts, as they were observed; None where prompts have none."""
    labels = np.zeros(len(ids), dtype=np.int32)
    for observation in observations:
        if observation.clusters is None:
            return None
        labels[np.searchsorted(ids, observation.ids)] = observation.clusters
    return number_within(ids, labels, seed)


def predictions(selector: Selector, ids: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """P(unsolved), P(partial), P(solved) of each id: float64 (n, 3); None of a method that predicts nothing."""
    if isinstance(selector, CoverageLimits):
        return predictions(selector.inner, ids)
    predicted = getattr(selector, "predicted", None)
    return None if predicted is None else predicted(ids)


def read_probes(folder: Path) -> dict[int, Observation]:
    """What the uniform probes found, by step; none where none were recorded."""
    path = folder / PROBES
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {int(line["step"]): _observation(line) for line in lines}


def _observation(line: Mapping[str, Any]) -> Observation:
    right, scored = (np.array(line[name], np.int16) for name in ("successes", "responses"))
    clusters = np.array(line["clusters"], np.int32) if "clusters" in line else None
    ids = np.array(line["ids"], np.int64)
    return Observation(ids, states_of(right, scored), right, scored, clusters=clusters)
