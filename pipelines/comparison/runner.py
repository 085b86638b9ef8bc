"""Does the runs of a comparison, one after the other, each in a process of its own.

A run that is finished is left as it is, one that was cut short goes on from its checkpoint, one that fails is
told and the others go on. Stopped, it stops the run in hand, which saves itself; the same command goes on.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from dps_ray.config import settings
from dps_ray.errors import ConfigError, DataError
from pipelines.comparison.plan import Run, check_same
from pipelines.monitoring.run_log import read_metrics, read_summary
from pipelines.monitoring.summary import duration

_LOOK_EVERY = 5.0  # seconds


class Failure(NamedTuple):
    run: Run
    why: str


class Done(NamedTuple):
    """How far a run is: steps, and seconds that one took, evaluations and probes included (None before)."""

    steps: int
    pace: float | None


def carry_out(
    runs: Sequence[Run], command: Callable[[Run], Sequence[str]], console: Console
) -> list[Failure]:
    """Do what is missing of these runs. Returns those that failed.

    command: what to execute for a run. What it prints goes to `logs/<name>.txt` beside the run's folder.

    Raises:
        ConfigError: a folder holds a run of the same name with other settings; nothing was started.
    """
    todo = [run for run in runs if not is_finished(run)]
    if len(todo) < len(runs):
        console.print(f"{len(runs) - len(todo)} of {len(runs)} runs were finished before")
    done = {run.name: done_of(run) for run in runs}
    failures = []
    for number, run in enumerate(todo):
        left = todo[number + 1 :]
        title = f"{number + 1}/{len(todo)} {run.name}"

        def line(title: str = title, run: Run = run, left: Sequence[Run] = left) -> str:
            done[run.name] = done_of(run)
            steps, total = done[run.name].steps, run.config.loop.steps
            seconds = seconds_left([run, *left], done)
            eta = "" if seconds is None else f", all in about {duration(seconds)}"
            return f"{title}: step {steps} of {total}{eta}"

        console.print(line(), highlight=False)
        began = time.monotonic()
        why = _do(run, command(run), console, line)
        if why is not None:
            failures.append(Failure(run, why))
        end = "done" if why is None else "failed"
        after = f"after {duration(time.monotonic() - began)}"
        said = "" if why is None else f"; {why}"
        console.print(escape(f"{title}: {end} {after}{said}"), highlight=False, soft_wrap=True)
        done[run.name] = done_of(run)
    return failures


def is_finished(run: Run) -> bool:
    """Whether all steps of the run were done.

    Raises:
        ConfigError: its folder holds a run with other settings, or with more steps.
    """
    recorded = run.config.folder / "config.yaml"
    if recorded.is_file():
        check_same(run, settings.load(recorded))
    summary = read_summary(run.config.folder)
    if summary is None:
        return False
    if summary["steps"] > run.config.loop.steps:
        raise ConfigError(
            f"{run.config.folder} holds a run of {summary['steps']} steps, and loop.steps is "
            f"{run.config.loop.steps}; set it to {summary['steps']}, or give another --out"
        )
    return bool(summary["steps"] == run.config.loop.steps)


def done_of(run: Run) -> Done:
    try:
        records = read_metrics(run.config.folder)
    except DataError:
        return Done(0, None)
    parts = ("timing_s/step", "timing_s/probe", "timing_s/eval")
    seconds = sum(record.get(part, 0.0) for record in records for part in parts)
    steps = int(records[-1]["step"]) if records else 0
    return Done(steps, seconds / steps if steps else None)


def seconds_left(left: Sequence[Run], done: dict[str, Done]) -> float | None:
    """For the rest of these runs; None while no step of any run was done.

    left: what is missing. done: by name of run, for those of `left` and others.

    A run goes on at its own pace, else at that of the method's other seeds, else at the mean of all.
    """
    paces = {name: each.pace for name, each in done.items() if each.pace is not None}
    if not paces:
        return None

    def pace(run: Run) -> float:
        alike = [p for name, p in paces.items() if name.rpartition("-s")[0] == run.method]
        return paces.get(run.name) or fmean(alike or paces.values())

    return sum((run.config.loop.steps - done[run.name].steps) * pace(run) for run in left)


def _do(run: Run, command: Sequence[str], console: Console, line: Callable[[], str]) -> str | None:
    """Execute a run; None when it finished, else what was wrong."""
    log = run.config.folder.parent / "logs" / f"{run.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    children: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        # In a session of its own, so that Ctrl-C reaches it once, from here.
        children.append(
            subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        )

    with (
        log.open("a") as output,
        Status("", console=console) as status,
        ThreadPoolExecutor(1) as starter,
    ):
        try:
            # In a thread, where no signal interrupts it: a process that is started is always in `children`.
            starter.submit(start).result()
            (process,) = children
            code = None
            while code is None:
                status.update(line())
                try:
                    code = process.wait(_LOOK_EVERY)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            starter.shutdown()
            for process in children:
                process.terminate()
                process.wait()
            raise
    if code == 0 and is_finished(run):
        return None
    said = log.read_text(errors="replace").strip().splitlines()
    last = f": {said[-1].strip()}" if said else ""
    how = f"exit code {code}" if code else "it was stopped"
    return f"{how}{last} (see {log})"
