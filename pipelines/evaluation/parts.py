"""One model on one test set: its prompts as tokens, checked before any actor starts, and the results that are already
stored."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.images import load_image_inputs
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.errors import ConfigError, DataError
from pipelines.evaluation.inputs import Benchmark, Model, digest
from pipelines.monitoring import json_lines
from pipelines.rollout.answers import Answered
from pipelines.rollout.measuring import Progress
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.processors import load_tokenizer

Tell = Callable[[str], None]


class Part(NamedTuple):
    """One model on one test set.

    ids:    ids of the prompts to answer, int64
    file:   JSON lines with the results of answered prompts, including those of earlier evaluations
    """

    model: Model
    benchmark: Benchmark
    pool: PromptPool
    ids: NDArray[np.int64]
    file: Path

    def answered(self) -> dict[int, Answered]:
        """The stored results by prompt id, without texts. Failed prompts are left out, so that they are tried again."""
        found = (Answered(**record).without_texts() for record in json_lines.records(self.file))
        return {each.prompt_id: each for each in found if each.accuracies is not None}

    def rest(self, answers: dict[int, Answered]) -> NDArray[np.int64]:
        """The ids of the prompts that have no result in `answers`."""
        return self.ids[~np.isin(self.ids, np.array(list(answers), dtype=np.int64))]


def parts_of(
    model: Model,
    benchmarks: Sequence[Benchmark],
    config: EvaluationConfig,
    tell: Tell,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> list[Part]:
    """The parts of this model, one for each test set.

    progress: makes a context manager from the name of a task; it yields a function to report the task's progress to.

    Raises:
        ModelError: the model is missing, or has no tokenizer or no chat template.
        ConfigError: the model's context is too short.
        DataError: a prompt is too long; with data.overlong_prompts=skip, all prompts are.
    """
    tokenizer = load_tokenizer(model.path, config.model.chat_template)
    images = load_image_inputs(model.path, config.data.max_pixels)
    _check_context(model, config)
    folder, limit = config.folder / "prompts", config.data.max_prompt_length
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for benchmark in benchmarks:
        name, total = benchmark.name, len(benchmark.table)
        run = config.of_a_run(model.path)
        with progress(f"reading {name} for {model.name}") as measured:
            pool = PromptPool(benchmark.table, tokenizer, images, run, measured)
        if pool.skipped == total:
            raise DataError(
                f"all {total} prompts of {name} are longer than data.max_prompt_length={limit} tokens; raise it"
            )
        if pool.skipped:
            tell(
                f"{pool.skipped} of {total} prompts of {name} are longer than data.max_prompt_length={limit} "
                f"tokens for {model.name}, and left out"
            )
        label = re.sub(r"[^\w.-]+", "_", f"{Path(model.name).name}-{name}")
        key = _key(model, benchmark, config, tokenizer.chat_template)
        file = folder / f"{label}-{key}.jsonl"
        json_lines.cut_torn_line(file)
        parts.append(Part(model, benchmark, pool, pool.ids[: config.max_prompts], file))
    return parts


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


def _key(model: Model, benchmark: Benchmark, config: EvaluationConfig, chat_template: Any) -> str:
    """A hash of everything that a response and its accuracy depend on."""
    reward, environment = config.data.reward, config.environment
    code = reward or environment.path
    source = Path(code.rpartition(":")[0]) if code else Path()
    return digest(
        [
            model.weights,
            config.model.dtype,
            chat_template,
            benchmark.table.fingerprint,
            config.samples,
            config.temperature,
            config.top_p,
            config.max_response_length,
            config.data.max_pixels,
            config.seed,
            reward,
            source.read_text() if source.is_file() else None,
            *([environment.model_dump(mode="json")] if environment.path else []),
        ]
    )
