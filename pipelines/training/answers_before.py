"""What `selector.start` names, read: answers that `pipelines.evaluate` stored, or the log of an earlier run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from dps_ray.beliefs.state_rules import successes
from dps_ray.config import Config
from dps_ray.durable import Storage, committed, newest_valid
from dps_ray.errors import CheckpointError, DataError
from pipelines.monitoring import json_lines
from pipelines.rollout.answers import Answered
from pipelines.training.checkpoint import records_of
from pipelines.training.pool_record import PoolRecord

RESULTS = "results.json"


class Groups(NamedTuple):
    """Groups of responses by prompt, as they were found.

    ids, contents: int64 (n,); known: bool (n,), whether the hash of the prompt's content is known
    successes, responses: int16 (n,)
    means, deviations: float64 (n,), of the scores; NaN where they are not known
    ages: int32 (n,), steps between each group and the last
    tokens: float64 (n,), of the responses, as far as known
    said: what this is, for messages
    notes: what may be wrong with it
    """

    ids: NDArray[np.int64]
    contents: NDArray[np.int64]
    known: NDArray[np.bool_]
    successes: NDArray[np.int16]
    responses: NDArray[np.int16]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    ages: NDArray[np.int32]
    tokens: NDArray[np.float64]
    said: str
    notes: tuple[str, ...] = ()


def read(path: Path, config: Config, model: str) -> Groups:
    """Reads the file or folder that `selector.start` names.

    model: folder or name of the start policy.

    Raises:
        DataError: it is no such file or folder, it holds no answers, or it is damaged.
        CheckpointError: a file of an earlier run is missing or was altered.
    """
    if path.is_dir() and (path / RESULTS).is_file():
        path = path / RESULTS
    if path.is_file():
        found = (
            _of_file(path, config) if path.suffix == ".jsonl" else _of_results(path, config, model)
        )
    elif (path / "config.yaml").is_file():
        found = _of_run(path)
    elif path.is_dir():
        raise DataError(
            f"selector.start={path} holds neither {RESULTS} of pipelines.evaluate nor config.yaml of a run: name the "
            "folder of one of them"
        )
    else:
        raise DataError(f"selector.start={path}: there is no such file or folder")
    if not len(found.ids):
        raise DataError(f"selector.start={path}: {found.said} has no scored group; name another")
    return found


def _of_results(path: Path, config: Config, model: str) -> Groups:
    """The answers that the results of an evaluation lead to."""
    try:
        results = json.loads(path.read_text())
        models = {row["name"]: row for row in results["models"]}
        ours = [row for row in models.values() if _same(row["path"], model)]
        rows = ours or list(models.values())
        files = [path.parent / file for row in rows[:1] for file in row["answers"].values()]
        sampled = dict(results["config"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"selector.start={path} is no {RESULTS} of this version of pipelines.evaluate ({error!r}); run the "
            "evaluation again with the same folder, which generates nothing anew, or name a file in its folder prompts"
        ) from None
    if len(rows) > 1:
        raise DataError(
            f"selector.start={path} has results of {', '.join(models)}, and none is of model.path={model}: name the "
            f"file of one of them in {path.parent / 'prompts'}"
        )
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise DataError(
            f"selector.start={path}: its answers by prompt, {missing[0] if missing else 'files'}, are missing; copy "
            f"the folder prompts beside {path.name}"
        )
    notes = [] if ours else [f"they are of {rows[0]['path']}, and the run starts from {model}"]
    for key in ("temperature", "top_p", "max_response_length"):
        then, now = sampled.get(key), getattr(config.rollout, key)
        if then != now:
            notes.append(
                f"they were sampled with {key}={then}, and the run has rollout.{key}={now}"
            )
    return _of_answers([each for file in files for each in _answers(file)], config, path)._replace(
        notes=tuple(notes)
    )


def _same(path: str, model: str) -> bool:
    return path == model or Path(path).absolute() == Path(model).absolute()


def _of_file(path: Path, config: Config) -> Groups:
    return _of_answers(list(_answers(path)), config, path)


def _answers(file: Path) -> Iterator[Answered]:
    """The scored answers in a file, the newest of each prompt."""
    found: dict[int, Answered] = {}
    try:
        for record in json_lines.records(file):
            answered = Answered(**record).without_texts()
            if answered.accuracies is not None:
                found[answered.prompt_id] = answered
    except TypeError as error:
        raise DataError(
            f"{file} is no file of answers that pipelines.evaluate wrote ({error})"
        ) from None
    return iter(found.values())


def _of_answers(answers: list[Answered], config: Config, path: Path) -> Groups:
    right = config.states.rule == "right"
    if any(each.scores is None for each in answers) and (
        not right or config.selector.learns_from_rewards
    ):
        raise DataError(
            f"selector.start={path} was written by an earlier version, without the scores that "
            f"{f'method={config.method}' if right else f'states.rule={config.states.rule}'} needs; evaluate again in "
            "another folder"
        )
    scores = [np.array(each.scores or each.accuracies, np.float64) for each in answers]
    accuracies = [np.array(each.accuracies, np.float64) for each in answers]
    try:
        counts = [successes(*pair, config.states) for pair in zip(scores, accuracies, strict=True)]
    except ValueError as error:
        raise DataError(f"selector.start={path}: {error}") from None
    return Groups(
        np.array([each.prompt_id for each in answers], np.int64),
        np.array([each.content or 0 for each in answers], np.int64),
        np.array([each.content is not None for each in answers], np.bool_),
        np.array(counts, np.int16),
        np.array([len(each) for each in accuracies], np.int16),
        np.array([each.mean() for each in scores]),
        # Of a single response no deviation is known, and none is seen.
        np.array([each.std(ddof=1) if len(each) > 1 else 0.0 for each in scores]),
        np.zeros(len(answers), np.int32),
        np.array([each.tokens for each in answers], np.float64),
        f"the evaluation {path}",
    )


def _of_run(folder: Path) -> Groups:
    """The log of a run up to its newest checkpoint."""
    storage = Storage.at(_storage_of(folder))
    manifest = newest_valid(storage, on_refused=lambda _: None)
    if manifest is None:
        raise DataError(
            f"selector.start={folder} is the folder of a run without an intact checkpoint; name one that has saved steps"
        )
    record = PoolRecord.load(storage, manifest)
    steps = [(step, found.split()[0]) for step, found in committed(storage, manifest)]
    ids = _joined([found.ids for _, found in steps], np.int64)
    contents, known = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    if record is not None and len(record.known_ids):
        rows = np.searchsorted(record.known_ids, ids)
        known = record.known_ids.take(rows, mode="clip") == ids
        contents = np.where(known, record.known_contents.take(rows, mode="clip"), 0)
    unknown = [np.full(len(found.ids), np.nan) for _, found in steps]
    responses = _joined([found.responses for _, found in steps], np.int16)
    progress = records_of(storage, manifest).get("progress", {})
    # The log has no tokens, but the run knows how many its responses had on average.
    tokens = progress.get("tokens", 0) / max(progress.get("rollouts", 0), 1)
    pairs = list(zip(steps, unknown, strict=True))
    return Groups(
        ids,
        contents,
        known,
        _joined([found.successes for _, found in steps], np.int16),
        responses,
        _joined([nan if s.means is None else s.means for (_, s), nan in pairs], np.float64),
        _joined(
            [nan if s.deviations is None else s.deviations for (_, s), nan in pairs], np.float64
        ),
        _joined([np.full(len(s.ids), manifest.step - step) for step, s in steps], np.int32),
        tokens * responses,
        f"the log of {folder}",
    )


def _storage_of(folder: Path) -> Path | str:
    """Where a run has its checkpoints. Its other settings may be of methods that are not installed any more."""
    try:
        tree: Any = yaml.safe_load((folder / "config.yaml").read_text())
        storage = tree.get("checkpoint", {}).get("storage")
    except (yaml.YAMLError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'config.yaml'} is no configuration of a run: {error}"
        ) from None
    return folder if storage is None else str(storage)


def _joined(parts: list[Any], dtype: Any) -> NDArray[Any]:
    whole: NDArray[Any] = np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)
    return whole
