"""The models and test sets of an evaluation, found and named before any actor starts."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dps_ray.config import settings
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.durable import Manifest, Storage, checkpoint_folder, load, manifests
from dps_ray.errors import CheckpointError, ConfigError, ModelError
from dps_ray.prompts.dataset import PromptTable, note_on_strings
from pipelines.data import builtin
from pipelines.data.hub import check_model
from pipelines.data.policy_recipe import RECIPES
from pipelines.data.start_policy import ensure_start_policy
from pipelines.training.checkpoint import best_checkpoint, storage_of

Tell = Callable[[str], None]

# Generic file names such as test.parquet or test-00000-of-00003.parquet; such a data set is named after its folder.
_SPLIT = re.compile(r"(train|test|val|validation|dev|eval)(-\d+-of-\d+)?")


class Model(NamedTuple):
    """A model: a row of the table.

    path:    Hugging Face folder or hub name
    weights: text that changes when the model's files change
    """

    name: str
    path: str
    weights: str


class Benchmark(NamedTuple):
    """A test set: a column of the table, or one column for each of its data sources."""

    name: str
    table: PromptTable


def find_models(config: EvaluationConfig, tell: Tell) -> list[Model]:
    """The models that the configuration names.

    Raises:
        ConfigError: two models have the same name.
        ModelError, CheckpointError: a run's folder has no checkpoint, or none with an intact model.
    """
    wanted = _listed("model", config.model.path)
    names = [name or path for name, path in wanted]
    _check_distinct("model", names, [path for _, path in wanted])
    return [_model(name, path, config, tell) for name, (_, path) in zip(names, wanted, strict=True)]


def find_benchmarks(config: EvaluationConfig, tell: Tell) -> list[Benchmark]:
    """The test sets that the configuration names.

    Raises:
        ConfigError: two test sets have the same name, or there is no such built-in data.
        DataError: a file is missing or malformed.
    """
    wanted = _listed("data", config.data.test)
    names = [name or _name_of(path) for name, path in wanted]
    _check_distinct("data", names, [path for _, path in wanted])
    benchmarks = []
    for name, (_, path) in zip(names, wanted, strict=True):
        file = builtin.ensure(path, "data.test")[1] if path.startswith("builtin:") else path
        benchmarks.append(Benchmark(name, PromptTable.open(file, config.data.id_column)))
    note = note_on_strings(benchmark.table for benchmark in benchmarks)
    if note is not None:
        tell(note)
    return benchmarks


def _listed(key: str, given: str | list[str]) -> list[tuple[str | None, str]]:
    """The name, or None, and the path of each entry."""
    if not given:
        raise ConfigError(f"{key}={given!r} names nothing; write {key}=PATH or {key}=[PATH,PATH]")
    return [_named(text) for text in ([given] if isinstance(given, str) else given)]


def _named(text: str) -> tuple[str | None, str]:
    """Splits `NAME=PATH` into name and path. Without a name, returns None and the path."""
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
    if path in RECIPES:

        def progress(done: int, total: int, loss: float) -> None:
            if done % 100 == 0:
                tell(f"making the start policy: {done} of {total} steps, loss {loss:.2f}")

        path = str(ensure_start_policy(builtin.cache(), 0, progress, name=path))
    folder = Path(path)
    if (folder / "config.yaml").is_file() and not (folder / "config.json").exists():
        return _of_run(name, folder, config, tell)
    check_model("model.path=", path)
    # Modification times reveal that other weights were written to the same path.
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return Model(name, path, digest([path, stats]))


def _of_run(name: str, run: Path, config: EvaluationConfig, tell: Tell) -> Model:
    """The model of a run's newest checkpoint with an intact model, or of its best checkpoint."""
    # The folder in config.yaml is where the run was made; it may have been moved since.
    storage = storage_of(settings.load(run / "config.yaml").model_copy(update={"folder": run}))
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
        f"none of the {len(names)} checkpoints of {run} is intact"
        if names
        else f"{run} has no checkpoint yet"
    )


def _of_checkpoint(name: str, storage: Storage, manifest: Manifest, scratch: Path) -> Model:
    """The model in a checkpoint.

    Raises:
        CheckpointError: a file is missing, truncated or altered.
    """
    path = f"{checkpoint_folder(manifest.epoch, manifest.step)}/model"
    files = manifest.under(path)
    weights = digest([(file.path, file.sha256) for file in files])
    folder = storage.fetch(files, path, scratch / "models" / weights)
    return Model(name, str(folder), weights)


def digest(what: object) -> str:
    """A hash of a JSON-serialisable value: the first 12 hexadecimal digits of the SHA-256 of its JSON."""
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]
