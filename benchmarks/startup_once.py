"""One start of a run up to its first selection, timed: everything of a training program but engines and learner.

`benchmarks.startup` runs it in a process of its own:

    python -m benchmarks.startup_once BEGAN RESULT.json [--observe N] key=value ...

BEGAN is `time.time()` when the process was asked for. With --observe it is a run that observes N prompts and writes a
checkpoint, for a later start to resume.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import numpy as np

import pipelines.grpo_dps  # noqa: F401  what a run imports
from actors.belief_shard import BeliefVersion
from actors.coordinator import Coordinator
from actors.managed_actor import RestartTracker
from cluster.placement import Placement
from cluster.start import connect
from dps_ray.beliefs.states import Observation, observed
from dps_ray.config import Config, settings
from dps_ray.durable import DEEPSPEED_TAG
from pipelines.monitoring.view import make_view
from pipelines.training.checkpoint import Checkpoints, records_of
from pipelines.training.inputs import Inputs, prepare
from pipelines.training.opening import Opening, open_run
from pipelines.training.progress import Progress

_STEPS = 10  # over which the prompts of a checkpoint are observed


class Parts:
    """Seconds that the parts of a start took, by name, in order."""

    def __init__(self, began: float) -> None:
        self.seconds = {"imports": time.time() - began}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.time()
        yield
        self.seconds[name] = time.time() - began


def first_selection(config: Config, parts: Parts, observe: int) -> dict[str, object]:
    """Starts a run and selects its first batch. Returns what was measured.

    observe: prompts to observe after that, and to write into a checkpoint; 0: none.
    """
    with ExitStack() as ends:
        view = make_view(config.loop.steps)
        with parts.timed("checks"):
            opening = open_run(config, view)
        with parts.timed("prompts"):
            inputs = prepare(opening.config, view, opening.storage, opening.base)
        with parts.timed("Ray"):
            ends.enter_context(connect(config))
        with parts.timed("shards"):
            checkpoints, coordinator = _shards(opening, inputs)
        with parts.timed("first selection"):
            base = opening.base
            step, name = (0, None) if base is None else (base.step, base.name)
            if base is not None:
                records_of(opening.storage, base)
            coordinator.rewind(BeliefVersion(checkpoints.epoch, step, name))
            selection = coordinator.select(config.loop.batch_size)
        total = sum(parts.seconds.values())
        used = resource.getrusage(resource.RUSAGE_SELF)
        if observe:
            _save(opening, checkpoints, coordinator, inputs, observe, step)
        return {
            "parts": parts.seconds,
            "seconds": total,
            "peak_mib": used.ru_maxrss / 2**10,
            "own_mib": _own_mib(),
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "prompts": len(inputs.pool.ids),
            "selected": selection.ids.tolist(),
        }


def _shards(opening: Opening, inputs: Inputs) -> tuple[Checkpoints, Coordinator]:
    config = opening.config
    checkpoints = Checkpoints(
        config,
        opening.storage,
        opening.base,
        fingerprint=inputs.record.population,
        deepspeed_tag=DEEPSPEED_TAG,
        tell=print,
    )
    placement = Placement.reserve(config)
    coordinator = Coordinator(
        config,
        opening.storage,
        inputs.population,
        RestartTracker(),
        placement.beliefs,
    )
    return checkpoints, coordinator


def _save(
    opening: Opening,
    checkpoints: Checkpoints,
    coordinator: Coordinator,
    inputs: Inputs,
    count: int,
    done: int,
) -> None:
    """Observes so many prompts after step `done`, and writes a checkpoint of the beliefs."""
    config = opening.config
    rng, table = np.random.default_rng(done), inputs.pool.table
    chosen = rng.choice(inputs.pool.ids, min(count, len(inputs.pool.ids)), replace=False)
    last = done + _STEPS
    for step, ids in enumerate(np.array_split(chosen, _STEPS), start=done + 1):
        inputs.record.observe(ids, table.contents[table.find(ids)[0]])
        coordinator.observe(step, _random_groups(ids, config.rollout.group_size, rng))
    coordinator.select(config.loop.batch_size)
    checkpoints.begin(
        last,
        0,
        lambda folder: [
            coordinator.save(folder),
            inputs.record.saving(opening.storage, folder),
        ],
        {"progress": asdict(Progress(step=last)), "quarantine": {}},
    )
    if checkpoints.complete() is None:
        raise RuntimeError("the checkpoint could not be written")


def _random_groups(ids: np.ndarray, size: int, rng: np.random.Generator) -> Observation:
    right = rng.binomial(size, rng.random(len(ids)))
    return observed(ids, right, np.full(len(ids), size))


def _own_mib() -> float:
    """MiB of this process that are no pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 2**10
    raise RuntimeError("this system does not say how much memory a process holds")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup_once", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("began", type=float)
    parser.add_argument("result", type=Path)
    parser.add_argument("--observe", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    parts = Parts(options.began)
    with redirect_stdout(sys.stderr):
        found = first_selection(settings.load(None, options.overrides), parts, options.observe)
    options.result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
