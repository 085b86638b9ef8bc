"""Real training under random kills, and whether an observation was lost or counted twice:

    python -m benchmarks.faults --minutes 10
    python -m benchmarks.faults --minutes 10 method=dps
    python -m benchmarks.faults --minutes 10 --overlap 0.5 loop.max_staleness=1

The main job trains on the built-in task, with two of every actor but the learner. SIGKILL goes to one process at a
time: a belief shard, a verifier, a rollout engine, the learner, or the driver, which is started again with the same
command. --seed decides which process is killed, and after how long. At the end the driver gets SIGTERM. The audit
then replays the committed log through a single new selector and compares it with the last checkpoint.

A kill usually waits until a step was done after the kill before it. --overlap is the share of kills that do not wait,
so that they hit a run that is starting, or is still replacing what was killed before.

A hang is a long time without a new step: `HANG` seconds, or the time of the first start where that was longer. A
driver that was killed may take both together, because it starts everything again. The first start has no limit.
"""

import argparse
import itertools
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from actors.belief_shard import make_selector, parts
from actors.health import Quarantine
from actors.managed_actor import RestartTracker
from actors.rollout import Rollouts
from cluster.placement import Placement
from cluster.start import connect
from dps_ray.config import Config, settings
from dps_ray.config.files import CONFIGS
from dps_ray.durable import Manifest, Storage, committed, newest_valid, read_shard, reshard
from dps_ray.errors import ConfigError, DPSError, EngineError
from pipelines.monitoring.run_log import read_events, read_metrics
from pipelines.monitoring.view import LineView
from pipelines.training.checkpoint import storage_of
from pipelines.training.inputs import prepare

# How often each is killed among fifty, and the title of its process.
KINDS = {
    "belief shard": (15, "ray::BeliefShard"),
    "verifier": (15, "ray::Verifier"),
    "rollout engine": (10, "ray::RolloutEngine"),
    "learner": (6, "ray::LearnerRank"),
    "driver": (4, None),
}
_ACTORS = tuple(title for _, title in KINDS.values() if title)
OVERRIDES = (
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
    # Kills at random may hit the same actor more often in a row than its defects would.
    "recovery.restarts=10",
)
PAUSE = (1.0, 6.0)  # seconds between a recovery and the next kill, uniformly distributed
OVERLAPPING_PAUSE = (0.0, 6.0)  # seconds between two kills without a recovery between them
HANG = 120.0  # seconds


class Kill(NamedTuple):
    kind: str
    back: (
        float | None
    )  # seconds until a step was done after it; None: the next kill did not wait for one


class Outcome(NamedTuple):
    """What a run went through, and what the audit found."""

    kills: list[Kill]
    start_up: float  # seconds from the first start to the first step
    stopped_in: float  # seconds from SIGTERM to the end
    exit_code: int  # after SIGTERM
    hangs: int
    redone: int  # steps done again, because a learner or driver was lost with them
    steps: int  # in the last checkpoint
    refused: list[str]  # checkpoints with a missing or altered file
    lost: int  # observations lost or counted twice

    @property
    def good(self) -> bool:
        return not (self.lost or self.hangs or self.refused or self.exit_code)

    @property
    def kinds(self) -> Counter[str]:
        """How many processes of each kind were killed."""
        return Counter(kill.kind for kill in self.kills)


def main(arguments: Sequence[str]) -> int:
    """0: nothing was lost; 1: something was lost or hung; 2: the run ended, or could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="counted from the first step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the kills, between 0 and 1, that do not wait for the recovery from the one before",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings of the run, such as method=dps"
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.overlap <= 1:
        parser.error(f"--overlap {options.overlap}: a share is between 0 and 1, such as 0.5")
    console = Console()
    rng = random.Random(options.seed)
    kinds = [kind for kind, (share, _) in KINDS.items() for _ in range(share)]
    rng.shuffle(kinds)
    folder = Path(tempfile.mkdtemp(prefix="dps_ray-faults-"))
    good = False
    try:
        start_up = start_up_of_an_engine(folder / "alone", options.overrides, console)
        console.print(f"start-up of a rollout engine alone: {start_up:.1f} s")
        outcome = survive(
            folder / "run",
            itertools.cycle(kinds),
            options.overrides,
            rng=rng,
            overlap=options.overlap,
            seconds=60 * options.minutes,
            console=console,
        )
        print_outcome(outcome, folder / "run", console)
        console.print(f"An engine may take twice its start-up: {2 * start_up:.1f} s.")
        good = outcome.good
    except DPSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if good:
            shutil.rmtree(folder)
        else:
            console.print(f"what the run left is kept in {folder}")
    return 0 if good else 1


def config_of(folder: Path, overrides: Sequence[str]) -> Config:
    """The settings of a run in this folder.

    Raises:
        ConfigError: an override is wrong, or names a folder.
    """
    for override in overrides:
        if override.partition("=")[0].strip() == "folder":
            raise ConfigError(
                f"{override}: the benchmark makes a folder of its own, and keeps it if something is "
                "lost; leave this setting out"
            )
    return settings.load(CONFIGS / "arithmetic.yaml", _all(folder, overrides))


def _all(folder: Path, overrides: Sequence[str]) -> list[str]:
    return [*OVERRIDES, *overrides, f"folder={folder}"]


# --- the run ------------------------------------------------------------------------------------


def survive(
    folder: Path,
    kinds: Iterable[str],
    overrides: Sequence[str] = (),
    *,
    rng: random.Random,
    overlap: float = 0.0,
    seconds: float = math.inf,
    console: Console,
) -> Outcome:
    """Train in this folder, kill processes of these kinds one after the other, stop, and audit what is left.

    seconds: after which no more processes are killed, counted from the first step.

    Raises:
        EngineError: the run ended by itself.
    """
    kills: list[Kill] = []
    with Run(folder, overrides, console) as run:
        settled = rng.random() >= overlap
        if settled:
            run.wait_for_a_step()
        end = time.monotonic() + seconds
        for kind in kinds:
            killed = False
            while not killed and time.monotonic() < end:
                time.sleep(rng.uniform(*(PAUSE if settled else OVERLAPPING_PAUSE)))
                killed = run.kill(kind, rng)
            if not killed:
                break
            settled = rng.random() >= overlap
            kills.append(Kill(kind, run.wait_for_a_step() if settled else None))
            back = kills[-1].back
            after = "killed" if back is None else f"killed, and a step done after {back:.1f} s"
            console.print(f"{len(kills):3}  {kind:15} {after}")
        if not settled:
            run.wait_for_a_step()
        stopped_in, code = run.stop()
    config = settings.load(folder / "config.yaml")
    storage = storage_of(config)
    refused: list[str] = []
    manifest = newest_valid(storage, on_refused=refused.append)
    if manifest is None:
        raise EngineError(f"the run left no checkpoint:\n{run.said()}")
    return Outcome(
        kills=kills,
        start_up=run.start_up,
        stopped_in=stopped_in,
        exit_code=code,
        hangs=run.hangs,
        redone=_redone(storage),
        steps=manifest.step,
        refused=refused,
        lost=observations_lost(config, storage, manifest, console),
    )


class Run:
    """The main job, as a process that is started again when it was killed. A context manager: nothing of the job
    is left behind."""

    def __init__(self, folder: Path, overrides: Sequence[str], console: Console):
        folder.mkdir(parents=True)
        self._folder = folder
        self._overrides = overrides
        self._console = console
        self.hangs = 0
        self.start_up = math.inf  # seconds from the first start to a step; unknown before it
        self._started = 0.0  # when the process was, by the monotonic clock
        self._process = self._start()
        self._starting = True  # until its first step is seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._kill_driver()

    def kill(self, kind: str, rng: random.Random) -> bool:
        """Kill one process of this kind, and start the driver again if it was that. False if there is none, as
        while it is being replaced."""
        self._check_running()
        title = KINDS[kind][1]
        if title is None:
            self._kill_driver()
            self._process = self._start()
            self._starting = True
            return True
        found = [p for p in self._process.children(recursive=True) if _title(p).startswith(title)]
        try:
            # A child that an actor has forked may bear its title.
            parents = {process.pid for process in found}
            actors = [process for process in found if process.ppid() not in parents]
            rng.choice(sorted(actors, key=lambda process: process.pid)).kill()
        except (IndexError, psutil.NoSuchProcess):  # none, or it has just ended
            return False
        return True

    def wait_for_a_step(self) -> float:
        """Wait until a step is recorded that was not yet, or until it counts as a hang. Returns the seconds.

        Raises:
            EngineError: the run ended.
        """
        began, mark = time.monotonic(), time.time()
        limit = max(HANG, self.start_up)
        if self._starting:
            limit = HANG + self.start_up
        while not any(step["time"] > mark for step in self._steps()):
            self._check_running()
            if time.monotonic() - began > limit:
                self.hangs += 1
                self._console.out(f"no step within {limit:.0f} s; the job said:\n{self.said()}")
                return limit
            time.sleep(0.1)
        if math.isinf(self.start_up):
            self.start_up = time.monotonic() - self._started
        self._starting = False
        return time.monotonic() - began

    def stop(self) -> tuple[float, int]:
        """Send SIGTERM. Returns the seconds until the driver ended, and its exit code."""
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout=max(HANG, self.start_up))
        except psutil.TimeoutExpired:
            self.hangs += 1
            self._kill_driver()
            code = -signal.SIGKILL
        return time.monotonic() - began, code

    def said(self) -> str:
        """The last lines of what the job wrote."""
        return (self._folder / "driver.log").read_text()[-3000:]

    def _start(self) -> psutil.Popen:
        command = [sys.executable, "-m", "pipelines.grpo_dps", "--config", "arithmetic"]
        # The processes to kill are looked for below the driver, so it has to start a Ray of its own.
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._started = time.monotonic()
        with (self._folder / "driver.log").open("ab") as log:
            return psutil.Popen(
                [*command, *_all(self._folder, self._overrides)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def _kill_driver(self) -> None:
        """
        Raises:
            EngineError: an actor goes on without its driver.
        """
        below = self._process.children(recursive=True)
        actors = [process for process in below if _title(process).startswith(_ACTORS)]
        self._process.kill()
        self._process.wait()
        _, left = psutil.wait_procs(actors, timeout=HANG)
        for process in psutil.wait_procs(below, timeout=0)[1]:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                process.kill()  # Ray's own agents look for their parent only now and then
        if left:
            raise EngineError(
                f"these were alive {HANG:.0f} s after their driver was killed: {left}"
            )

    def _check_running(self) -> None:
        if self._process.poll() is not None:
            raise EngineError(
                f"the run ended by itself, with exit code {self._process.returncode}:\n{self.said()}"
            )

    def _steps(self) -> list[dict[str, float]]:
        if not (self._folder / "metrics.jsonl").exists():
            return []
        return [m for m in read_metrics(self._folder) if "training/step" in m]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def start_up_of_an_engine(folder: Path, overrides: Sequence[str], console: Console) -> float:
    """Seconds from nothing to an engine that answers, on a machine that does nothing else."""
    config = config_of(folder, [*overrides, "resources.rollout.engines=1"])
    model = prepare(config, LineView(config.loop.steps, console, time.monotonic)).model
    with connect(config):
        place = Placement.reserve(config).rollout
        began = time.monotonic()
        Rollouts(config, model, "gloo", RestartTracker(), Quarantine(1), place).wait_until_ready()
        return time.monotonic() - began


# --- what is left of it -------------------------------------------------------------------------


def observations_lost(
    config: Config, storage: Storage, manifest: Manifest, console: Console
) -> int:
    """How many observations the shards of a checkpoint have too often or too seldom, compared with a replay of the
    committed log.

    0 only when every array of every shard equals that of the replay to the bit; otherwise at least 1.
    """
    view = LineView(config.loop.steps, console, time.monotonic)
    inputs = prepare(config, view, storage, manifest)
    population, count = inputs.population, manifest.belief_shards
    replayed = make_selector(config, population, inputs.evidence(config))
    for _, observation in committed(storage, manifest):
        replayed.observe(observation)
    lost, split = 0, list(parts(config, population, count))
    for index, expected in enumerate(reshard([replayed.snapshot()], count)):
        # The same order of prompts as in the other one.
        (found,) = reshard([read_shard(storage, manifest, index, count)], 1)
        assert found.keys() == expected.keys()
        differing = [name for name in expected if not _same(found[name], expected[name])]
        if differing:
            console.print(f"shard {index} is not as after a replay: {', '.join(differing)}")
            like = split[index].selector()
            like.load_state(found)
            differences = [
                np.abs(ours.times_sampled(ids) - theirs.times_sampled(ids)).sum()
                for (ids, _), ours, theirs in zip(
                    split[index].prompts, like.selectors, replayed.selectors, strict=True
                )
            ]
            lost += max(1, int(np.sum(differences)))
    return lost


def _same(found: object, expected: object) -> bool:
    """Whether two values of a snapshot are equal; NaN equals NaN, for which NumPy can look in numbers only."""
    return np.array_equal(found, expected, equal_nan=np.asarray(expected).dtype.kind == "f")  # type: ignore[arg-type]


def _redone(storage: Storage) -> int:
    """How many steps are in the log more than once: lost with a learner or driver, and done again."""
    logged = [path.rpartition("/")[2] for path in storage.list("log")]
    return len(logged) - len(set(logged))


def print_outcome(outcome: Outcome, folder: Path, console: Console) -> None:
    """Print what was killed and how long it took to recover, by kind, and what the audit found."""
    replaced: dict[str, list[float]] = defaultdict(list)
    for event in read_events(folder):
        replaced[str(event["kind"]).replace("_", " ")].append(float(event["seconds"]))
    table = Table(
        "killed", "times", "replaced after (median)", "worst", "next step after (median)", "worst"
    )
    for kind in KINDS:
        steps = [kill.back for kill in outcome.kills if kill.kind == kind and kill.back is not None]
        times = replaced.get(kind, [])
        table.add_row(kind, str(outcome.kinds[kind]), *_spread(times), *_spread(steps))
    console.print(table)
    console.print(f"first step after {outcome.start_up:.1f} s")
    console.print(f"SIGTERM: exit code {outcome.exit_code} after {outcome.stopped_in:.1f} s")
    for reason in outcome.refused:
        console.out(reason)
    console.print(
        f"{len(outcome.kills)} kills, {outcome.redone} steps done again, {outcome.hangs} hangs; "
        f"{outcome.steps} steps in the last checkpoint; observations lost or doubled: {outcome.lost}"
    )


def _spread(seconds: Sequence[float]) -> tuple[str, str]:
    if not seconds:
        return "-", "-"
    return f"{np.median(seconds):.1f} s", f"{max(seconds):.1f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
