"""Real training under random kills, and whether anything was lost:  python -m benchmarks.faults --minutes 10

Starts the main job on the built-in task, with two of everything but the learner, and sends SIGKILL to one of its
processes at a time: belief shards, rollout engines, verifiers, the learner, the driver itself (which is started
again with the same command). Which, and after how long, is decided by --seed. In the end it sends SIGTERM, and
compares the beliefs of the last checkpoint with those of a single fresh store that observes the committed log.

`--checkpoints` measures what a checkpoint of the beliefs costs beside writing the same bytes with one `write` and
one `fsync`; without --minutes it does that alone.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from actors.belief_shard import make_selector
from actors.member import Recoveries
from actors.rollout import Rollouts
from cluster.placement import Placement
from cluster.start import connect
from dps_ray import BeliefStore, settings
from dps_ray.durable import (
    Manifest,
    Storage,
    committed,
    newest_valid,
    read_shard,
    reshard,
    write_snapshot,
)
from dps_ray.health import Quarantine
from dps_ray.prompts import PromptTable
from pipelines import builtin
from pipelines.config_files import CONFIGS
from pipelines.run_log import read_events, read_metrics
from pipelines.start_policy import ensure_start_policy

# How often each is killed among fifty, and what its process calls itself.
KINDS = {
    "belief shard": (15, "ray::BeliefShard"),
    "verifier": (15, "ray::Verifier"),
    "rollout engine": (10, "ray::RolloutEngine"),
    "learner": (6, "ray::LearnerRank"),
    "driver": (4, None),
}
_ACTORS = tuple(title for _, title in KINDS.values() if title)
OVERRIDES = [
    "loop.steps=100000",
    "loop.batch_size=16",
    "data.test=null",
    "probe.every=0",
    "checkpoint.every=3",
    "resources.beliefs.shards=2",
    "resources.rollout.engines=2",
    "resources.verifiers.workers=2",
    "timeouts.generate=60",
    "timeouts.beliefs=20",
    "timeouts.score=20",
]
PAUSE = (1.0, 6.0)  # seconds between a recovery and the next kill, from a uniform distribution
HANG = 120.0  # seconds without a new step


class Kill(NamedTuple):
    kind: str
    at: float  # Unix seconds
    back: float  # seconds until a step was done after it


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", action="store_true")
    options = parser.parse_args(arguments)
    console = Console()
    good = True
    if options.minutes:
        with tempfile.TemporaryDirectory(prefix="dps_ray-faults-") as folder:
            good = survive(Path(folder), 60 * options.minutes, options.seed, console)
    if options.checkpoints or not options.minutes:
        cost_of_checkpoints(console)
    return 0 if good else 1


# --- the run ------------------------------------------------------------------------------------


def survive(folder: Path, seconds: float, seed: int, console: Console) -> bool:
    """Whether a run that long, with kills, lost nothing and never hung."""
    config = settings.load(CONFIGS / "arithmetic.yaml", [*OVERRIDES, f"folder={folder}"])
    start_up = start_up_of_an_engine(folder / "alone")
    console.print(f"start-up of a rollout engine alone: {start_up:.1f} s")
    run = Run(folder)
    rng = random.Random(seed)
    order = [kind for kind, (share, _) in KINDS.items() for _ in range(share)]
    rng.shuffle(order)
    kills: list[Kill] = []
    end = time.monotonic() + seconds
    run.wait_for_a_step()
    while time.monotonic() < end:
        time.sleep(rng.uniform(*PAUSE))
        kind = order[len(kills) % len(order)]
        at = time.time()
        if not run.kill(kind, rng):
            continue
        kills.append(Kill(kind, at, run.wait_for_a_step()))
        console.print(f"{len(kills):3}  {kind:15} back after {kills[-1].back:.1f} s")
    stopped_in, code = run.stop()
    console.print(f"SIGTERM: exit code {code} after {stopped_in:.1f} s")

    storage = Storage.at(folder)
    manifest = newest_valid(storage, on_refused=console.print)
    assert manifest is not None, "not one checkpoint was made"
    lost = observations_lost(config, storage, manifest)
    print_kills(kills, folder, start_up, console)
    console.print(
        f"{len(kills)} kills, {run.steps_lost} steps done again, {run.hangs} hangs; {manifest.step} steps in "
        f"checkpoint {manifest.name}; observations lost or doubled: {lost}"
    )
    return lost == 0 and run.hangs == 0 and code == 0


class Run:
    """The main job, as a process that is started again when it was killed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.hangs = 0
        self.steps_lost = 0
        self._process = self._start()

    def _start(self) -> psutil.Popen:
        command = [sys.executable, "-m", "pipelines.grpo_dps", *OVERRIDES, f"folder={self.folder}"]
        with (self.folder / "driver.log").open("ab") as log:
            return psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def kill(self, kind: str, rng: random.Random) -> bool:
        """Whether there was such a process: it may just be being replaced."""
        title = KINDS[kind][1]
        below = self._process.children(recursive=True)
        if title is None:
            actors = [p for p in below if _title(p).startswith(_ACTORS)]
            self._process.kill()
            self._process.wait()
            _, left = psutil.wait_procs(actors, timeout=30)
            assert not left, f"these outlived their driver: {left}"
            for process in psutil.wait_procs(below, timeout=0)[1]:
                process.kill()  # Ray's own agents, which look for their parent now and then
            self._process = self._start()
            return True
        found = [p for p in below if _title(p).startswith(title)]
        if found:
            rng.choice(sorted(found, key=lambda process: process.pid)).kill()
        return bool(found)

    def wait_for_a_step(self) -> float:
        """Seconds until a step is recorded that is not yet: of those that only count from now on."""
        began, mark = time.monotonic(), time.time()
        while True:
            if time.monotonic() - began > HANG:
                self.hangs += 1
                return HANG
            if self._process.poll() is not None:
                raise RuntimeError(f"the run ended by itself:\n{self._said()}")
            times = [m["time"] for m in self._steps()]
            if times and max(times) > mark:
                return time.monotonic() - began
            time.sleep(0.1)

    def stop(self) -> tuple[float, int]:
        """Seconds until SIGTERM had its effect, and the exit code."""
        self.steps_lost = self._count_lost()
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=HANG)
        return time.monotonic() - began, code

    def _steps(self) -> list[dict[str, float]]:
        if not (self.folder / "metrics.jsonl").exists():
            return []
        return [m for m in read_metrics(self.folder) if "training/step" in m]

    def _count_lost(self) -> int:
        """Steps that stand in the log more than once: done, lost with learner or driver, and done again."""
        logged = [path.name for path in self.folder.glob("log/*/*.arrow")]
        return len(logged) - len(set(logged))

    def _said(self) -> str:
        return (self.folder / "driver.log").read_text()[-3000:]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def start_up_of_an_engine(folder: Path) -> float:
    """Seconds from nothing to an engine that answers, on a machine that does nothing else."""
    config = settings.load(CONFIGS / "arithmetic.yaml", [f"folder={folder}"])
    model = str(ensure_start_policy(builtin.cache(), seed=0, progress=lambda *_: None))
    with connect(config):
        place = Placement.reserve(config).rollout
        began = time.monotonic()
        Rollouts(config, model, "gloo", Recoveries(), Quarantine(1), place).wait_until_ready()
        return time.monotonic() - began


# --- what is left of it -------------------------------------------------------------------------


def observations_lost(config: settings.Config, storage: Storage, manifest: Manifest) -> int:
    """How many prompts have other beliefs in the checkpoint than after a replay of the committed log.

    0 only when every array of the one state equals that of the other to the bit.
    """
    train, _ = builtin.ensure_arithmetic(builtin.cache())
    ids = PromptTable.open(train, None).ids
    single = make_selector(config, ids, len(ids))
    for _, observation in committed(storage, manifest):
        single.observe(*observation[:4], observation)
    (expected,) = reshard([single.snapshot()], 1)
    count = manifest.belief_shards
    (found,) = reshard([read_shard(storage, manifest, i, count) for i in range(count)], 1)
    assert found.keys() == expected.keys()
    equal = [np.array_equal(found[name], expected[name], equal_nan=True) for name in expected]
    if all(equal):
        return 0
    differing = np.setxor1d(found["seen_ids"], expected["seen_ids"])
    return max(1, len(differing))


def print_kills(kills: Sequence[Kill], folder: Path, start_up: float, console: Console) -> None:
    replaced: dict[str, list[float]] = defaultdict(list)
    for event in read_events(folder):
        replaced[str(event["kind"]).replace("_", " ")].append(float(event["seconds"]))
    table = Table(
        "killed", "times", "replaced after (median)", "worst", "next step after (median)", "worst"
    )
    for kind in KINDS:
        steps = [kill.back for kill in kills if kill.kind == kind]
        times = replaced.get(kind, [])
        table.add_row(kind, str(len(steps)), *_spread(times), *_spread(steps))
    console.print(table)
    console.print(f"An engine may take twice its start-up: {2 * start_up:.1f} s.")


def _spread(seconds: Sequence[float]) -> tuple[str, str]:
    if not seconds:
        return "-", "-"
    return f"{np.median(seconds):.1f} s", f"{max(seconds):.1f} s"


# --- what a checkpoint costs --------------------------------------------------------------------


def cost_of_checkpoints(console: Console, seen: int = 100_000, repeats: int = 7) -> None:
    """Snapshots of pools with so many prompts seen: time and bytes, beside one write of as many."""
    table = Table(
        "pool", "seen", "bytes", "snapshot", "written", "one write + fsync", "ratio (spread)"
    )
    for prompts in (1_000_000, 10_000_000):
        store = BeliefStore(np.arange(prompts), decay=0.9)
        for ids in np.array_split(
            np.random.default_rng(0).choice(prompts, seen, replace=False), 20
        ):
            store.observe(ids, ids % 3)
        snapshot, write, plain = [], [], []
        with tempfile.TemporaryDirectory(prefix="dps_ray-checkpoints-") as folder:
            for repeat in range(repeats):
                began = time.perf_counter()
                taken = store.snapshot()
                between = time.perf_counter()
                stored = write_snapshot(Storage.at(folder), f"ckpt/{repeat}.arrow", taken)
                snapshot.append(between - began)
                write.append(time.perf_counter() - between)
                plain.append(_one_write(Path(folder) / f"{repeat}.bin", stored.bytes))
        ratios = np.divide(np.add(snapshot, write), plain)
        table.add_row(
            f"{prompts:,}",
            f"{seen:,}",
            f"{stored.bytes:,}",
            *(f"{1e3 * np.median(each):.0f} ms" for each in (snapshot, write, plain)),
            f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})",
        )
    console.print(table)


def _one_write(path: Path, count: int) -> float:
    content = os.urandom(count)
    began = time.perf_counter()
    with path.open("xb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
