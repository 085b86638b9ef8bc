"""What an evaluation is of: models and test sets, found, named and checked before any actor starts; and what is
known already of each model on each test set."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import AutoConfig

from actors.images import load_image_inputs
from dps_ray import settings
from dps_ray.durable import Manifest, Storage, checkpoint_folder, load, manifests
from dps_ray.errors import CheckpointError, ConfigError, DataError, ModelError
from dps_ray.evaluation_config import EvaluationConfig
from dps_ray.prompts import PromptTable
from pipelines import builtin, json_lines
from pipelines.checkpoint import best_checkpoint, storage_of
from pipelines.evaluation import Answered
from pipelines.pool import PromptPool, load_tokenizer
from pipelines.start_policy import ensure_start_policy

Tell = Callable[[str], None]

# What files of a data set are called that is named after its folder: test.parquet, test-00000-of-00003.parquet.
_SPLIT = re.compile(r"(train|test|val|validation|dev|eval)(-\d+-of-\d+)?")


class Model(NamedTuple):
    """A row of the table.

    path:    Hugging Face folder or hub name
    weights: another text when the folder holds other files
    """

    name: str
    path: str
    weights: str


class Benchmark(NamedTuple):
    """A test set: a column of the table, or one for each of its data sources."""

    name: str
    table: PromptTable


class Part(NamedTuple):
    """One model on one test set.

    ids:    int64, of the prompts to answer
    file:   a JSON line for each prompt that was answered, whenever that was
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


def find_models(config: EvaluationConfig, tell: Tell) -> list[Model]:
    """
    Raises:
        ConfigError: two have the same name.
        ModelError, CheckpointError: a run's folder has no checkpoint, or none that is whole.
    """
    wanted = _listed("model", config.model.path)
    names = [name or path for name, path in wanted]
    _check_distinct("model", names, [path for _, path in wanted])
    return [_model(name, path, config, tell) for name, (_, path) in zip(names, wanted, strict=True)]


def find_benchmarks(config: EvaluationConfig) -> list[Benchmark]:
    """
    Raises:
        ConfigError: two have the same name, or there is no such built-in data.
        DataError: a file is missing or malformed.
    """
    wanted = _listed("data", config.data.test)
    names = [name or _name_of(path) for name, path in wanted]
    _check_distinct("data", names, [path for _, path in wanted])
    benchmarks = []
    for name, (_, path) in zip(names, wanted, strict=True):
        file = builtin.ensure(path, "data.test")[1] if path.startswith("builtin:") else path
        benchmarks.append(Benchmark(name, PromptTable.open(file, config.data.id_column)))
    return benchmarks


def parts_of(
    model: Model, benchmarks: Sequence[Benchmark], config: EvaluationConfig, tell: Tell
) -> list[Part]:
    """This model on each test set.

    Raises:
        ModelError: the model is missing, or has no tokenizer or no chat template.
        ConfigError: its context is too short.
        DataError: a prompt is too long; all are, if that is no error by itself.
    """
    tokenizer = load_tokenizer(model.path, config.model.chat_template)
    images = load_image_inputs(model.path, config.data.max_pixels)
    _check_context(model, config)
    folder, limit = config.folder / "prompts", config.data.max_prompt_length
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for benchmark in benchmarks:
        name, total = benchmark.name, len(benchmark.table)
        pool = PromptPool(
            benchmark.table,
            tokenizer,
            images,
            config.of_a_run(model.path),
            lambda done, total, unit: None,
        )
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
        file = folder / f"{label}-{_key(model, benchmark, config)}.jsonl"
        json_lines.cut_torn_line(file)
        parts.append(Part(model, benchmark, pool, pool.ids[: config.max_prompts], file))
    return parts


def _listed(key: str, given: str | list[str]) -> list[tuple[str | None, str]]:
    """Name, if there is one, and path of each."""
    if not given:
        raise ConfigError(f"{key}={given!r} names nothing; write {key}=PATH or {key}=[PATH,PATH]")
    return [_named(text) for text in ([given] if isinstance(given, str) else given)]


def _named(text: str) -> tuple[str | None, str]:
    """`NAME=PATH` taken apart; None and the path where there is no name."""
    name, separator, path = text.partition("=")
    if not separator or "/" in name or Path(text).exists():
        return None, text
    return name, path


def _check_distinct(key: str, names: Sequence[str], paths: Sequence[str]) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            first = paths[names.index(name)]
            raise ConfigError(
                f"{first} and {paths[place]} are both called {name}; name them, as in "
                f"{key}=[first={first},second={paths[place]}]"
            )


def _name_of(path: str) -> str:
    if path.startswith("builtin:"):
        return path.removeprefix("builtin:")
    file = Path(path).absolute()
    stem = file.stem if file.suffix == ".parquet" else file.name
    return file.parent.name if _SPLIT.fullmatch(stem) else stem


def _model(name: str, path: str, config: EvaluationConfig, tell: Tell) -> Model:
    if path == "builtin:start-policy":

        def progress(done: int, total: int, loss: float) -> None:
            if done % 100 == 0:
                tell(f"making the start policy: {done} of {total} steps, loss {loss:.2f}")

        path = str(ensure_start_policy(builtin.cache(), seed=0, progress=progress))
    folder = Path(path)
    if (folder / "config.yaml").is_file() and not (folder / "config.json").exists():
        return _of_run(name, folder, config, tell)
    # Of other weights under the same path the time is another.
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return Model(name, path, _digest([path, stats]))


def _of_run(name: str, run: Path, config: EvaluationConfig, tell: Tell) -> Model:
    """The model of a run's newest checkpoint whose model is whole, or of its best."""
    storage = storage_of(settings.load(run / "config.yaml", [f"folder={run}"]))
    if config.model.checkpoint == "best":
        best = best_checkpoint(storage)
        if best is None:
            raise ModelError(
                f"{run} has no checkpoint of an evaluated step; write model.checkpoint=newest"
            )
        return _of_checkpoint(name, storage, best, config.folder)
    names = manifests(storage)
    for each in names:
        try:
            return _of_checkpoint(name, storage, load(storage, each), config.folder)
        except CheckpointError as error:
            tell(f"checkpoint {each} is refused: {error}")
    raise ModelError(
        f"none of the {len(names)} checkpoints of {run} is whole"
        if names
        else f"{run} has no checkpoint yet"
    )


def _of_checkpoint(name: str, storage: Storage, manifest: Manifest, scratch: Path) -> Model:
    """
    Raises:
        CheckpointError: a file is missing, truncated or altered.
    """
    path = f"{checkpoint_folder(manifest.epoch, manifest.step)}/model"
    files = manifest.under(path)
    weights = _digest([(file.path, file.sha256) for file in files])
    folder = storage.fetch(files, path, scratch / "models" / weights)
    return Model(name, str(folder), weights)


def _check_context(model: Model, config: EvaluationConfig) -> None:
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
    return _digest(
        [
            model.weights,
            config.model.dtype,
            config.model.chat_template,
            benchmark.table.fingerprint,
            config.samples,
            config.temperature,
            config.top_p,
            config.max_response_length,
            config.data.max_pixels,
            config.seed,
            reward,
            source.read_text() if source.is_file() else None,
        ]
    )


def _digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
