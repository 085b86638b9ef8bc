"""`selector.start`: what it can name, and how its prompts are found in the pool."""

import json

import numpy as np
import pytest

from dps_ray.beliefs.states import Observation, states_of
from dps_ray.config import settings
from dps_ray.durable import (
    Manifest,
    ObservationLog,
    Segment,
    Storage,
    checkpoint_folder,
    claim_epoch,
    commit,
)
from dps_ray.errors import DataError
from dps_ray.prompts.dataset import PromptTable
from pipelines.monitoring import json_lines
from pipelines.rollout.answers import Answered
from pipelines.training.answers_before import read
from pipelines.training.pool_record import PoolRecord
from pipelines.training.start import Start, start_of

MODEL = "models/start"


@pytest.fixture(scope="module")
def table(chains):
    return PromptTable.open(chains[0])


@pytest.fixture
def evaluation(table, tmp_path):
    """Writes an evaluation of some prompts; of row i, i % 5 of 4 responses are right."""

    def write(rows=range(20), models=((MODEL, "start"),), shift=0, **changed):
        folder = tmp_path / "evaluation"
        (folder / "prompts").mkdir(parents=True, exist_ok=True)
        listed = []
        for path, name in models:
            file = folder / "prompts" / f"{name}-train-1.jsonl"
            file.unlink(missing_ok=True)
            records = []
            for row in rows:
                right = tuple([1.0] * (row % 5) + [0.0] * (4 - row % 5))
                answered = Answered(
                    int(table.ids[row]) + shift,
                    "chains",
                    right,
                    tokens=10,
                    scores=right,
                    content=int(table.contents[row]),
                )
                records.append({**answered._asdict(), **changed})
            json_lines.append(file, records)
            answers = {"train": f"prompts/{file.name}"}
            listed.append({"name": name, "path": path, "answers": answers})
        sampling = {"temperature": 1.0, "top_p": 1.0, "max_response_length": 1024}
        (folder / "results.json").write_text(json.dumps({"models": listed, "config": sampling}))
        return folder

    return write


def config_of(start, *overrides, method="mopps"):
    return settings.load(None, [f"method={method}", f"selector.start={start}", *overrides])


def started(config, table, ids=None, model=MODEL):
    said = []
    ids = table.ids if ids is None else ids
    return start_of(config, table, ids, model, None, None, said.append), said


@pytest.mark.parametrize("part", ["", "results.json", "prompts/start-train-1.jsonl"])
def test_an_evaluation_is_named_by_its_folder_its_results_or_a_file_of_answers(
    evaluation, table, part
):
    found, said = started(config_of(evaluation() / part), table)
    order = np.argsort(table.ids[:20])
    np.testing.assert_array_equal(found.evidence.found.ids, table.ids[:20][order])
    np.testing.assert_array_equal(found.evidence.found.successes, np.arange(20)[order] % 5)
    assert (found.evidence.found.responses == 4).all()
    assert not found.evidence.ages.any()
    assert (found.rollouts, found.tokens) == (0, 0)
    assert found.evidence.weight == 0.5
    assert "80 responses to 20 of 120 prompts of the pool" in said[0]


def test_prompts_are_found_by_content_under_other_ids(evaluation, table):
    ours, _ = started(config_of(evaluation()), table)
    theirs, _ = started(config_of(evaluation(shift=1)), table)
    np.testing.assert_array_equal(ours.evidence.found.ids, theirs.evidence.found.ids)
    np.testing.assert_array_equal(ours.evidence.found.successes, theirs.evidence.found.successes)


def test_prompts_without_a_content_are_found_by_id(evaluation, table):
    """As earlier versions wrote them."""
    found, _ = started(config_of(evaluation(content=None)), table)
    assert len(found.evidence.ages) == 20
    with pytest.raises(DataError, match="none of its 20 prompts is in data"):
        started(config_of(evaluation(content=None, shift=1)), table)


def test_the_same_id_with_another_content_is_another_prompt(evaluation, table):
    with pytest.raises(DataError, match="none of its 20 prompts is in data"):
        started(config_of(evaluation(content=12345)), table)


def test_every_prompt_with_the_same_text_is_given_what_was_found(chains, tmp_path, evaluation):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(chains[0]).slice(0, 3)
    pq.write_table(pa.concat_tables([rows, rows]), tmp_path / "twice.parquet")
    twice = PromptTable.open(tmp_path / "twice.parquet")
    found, said = started(config_of(evaluation(rows=range(3), shift=1)), twice)
    np.testing.assert_array_equal(found.evidence.found.ids, np.sort(twice.ids))
    assert "12 responses to 6 of 6 prompts" in said[0]


def test_prompts_that_match_nothing_are_counted(evaluation, table):
    found, said = started(config_of(evaluation()), table, ids=table.ids[15:])
    assert len(found.evidence.ages) == 5
    assert said[0].endswith("5 of 105 prompts of the pool; 15 of its prompts match none")


def test_what_is_unlike_the_run_is_said(evaluation, table):
    config = config_of(evaluation(), "rollout.temperature=0.8")
    _, said = started(config, table, model="models/other")
    assert f"selector.start: they are of {MODEL}, and the run starts from models/other" in said
    assert (
        "selector.start: they were sampled with temperature=1.0, and the run has rollout.temperature=0.8"
        in said
    )
    assert len(started(config_of(evaluation()), table)[1]) == 1


def test_of_several_models_the_run_takes_its_own(evaluation, table):
    folder = evaluation(models=(("models/other", "other"), (MODEL, "start")))
    assert len(started(config_of(folder), table)[0].evidence.ages) == 20
    with pytest.raises(DataError, match=r"has results of other, start, and none is of model\.path"):
        started(config_of(folder), table, model="models/third")


def test_the_offline_filter_is_charged_for_the_evaluation_and_others_if_told(evaluation, table):
    folder = evaluation()
    charged, said = started(config_of(folder, method="offline_filter"), table)
    assert (charged.rollouts, charged.tokens) == (80, 200)
    assert said[-1] == "80 rollouts and 200 tokens of it are charged to the run"
    told, _ = started(config_of(folder, "selector.start_charged=true"), table)
    assert (told.rollouts, told.tokens) == (80, 200)


def test_states_follow_from_scores_where_the_rule_says_so(evaluation, table):
    rule = ("states.rule=variation", "selector.observation=rewards")
    found, _ = started(config_of(evaluation(), *rule, method="dps"), table)
    assert found.evidence.found.means is not None
    halves = found.evidence.found.successes == 2
    np.testing.assert_allclose(found.evidence.found.means[halves], 0.5)
    np.testing.assert_allclose(
        found.evidence.found.deviations[halves], np.std([1, 1, 0, 0], ddof=1)
    )
    with pytest.raises(DataError, match=r"without the scores that states\.rule=variation needs"):
        started(config_of(evaluation(scores=None), *rule, method="dps"), table)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere", "there is no such file or folder"),
        (lambda folder: folder, r"holds neither results\.json of pipelines\.evaluate"),
        (lambda folder: written(folder, "results.json", "{"), r"is no results\.json of this"),
        (lambda folder: written(folder, "results.json", '{"models": [{}]}'), "run the evaluation"),
        (lambda folder: written(folder, "results.json", '{"models": []}'), "run the evaluation"),
        (
            lambda folder: written(
                folder,
                "results.json",
                json.dumps(
                    {
                        "models": [{"name": "a", "path": "b", "answers": {"c": "gone.jsonl"}}],
                        "config": {},
                    }
                ),
            ),
            "copy the folder prompts",
        ),
        (lambda folder: written(folder, "a.jsonl", '{"id": 3}\n'), "is no file of answers"),
        (lambda folder: written(folder, "a.jsonl", "{\n"), "line 1 is not JSON"),
        (lambda folder: written(folder, "a.jsonl", ""), "has no scored group"),
        (lambda folder: written(folder, "config.yaml", "seed: 1\n").parent, "intact checkpoint"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path, make, said):
    with pytest.raises(DataError, match=said):
        read(make(tmp_path), config_of(tmp_path), MODEL)


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_the_log_of_a_run_is_read_with_ages_and_contents(table, tmp_path):
    storage = Storage.at(tmp_path)
    epoch = claim_epoch(storage)
    log, rows = ObservationLog(storage, epoch), [np.arange(8), np.arange(4, 12)]
    record = PoolRecord.of(table.files, table.ids)
    for step, each in enumerate(rows, start=1):
        ids = np.sort(table.ids[each])
        right = np.full(8, step, np.int16)
        scored = np.full(8, 4, np.int16)
        log.append(step, Observation(ids, states_of(right, scored), right, scored))
        record.observe(table.ids[each], table.contents[each])
    folder = checkpoint_folder(epoch, 2)
    progress = json.dumps({"progress": {"tokens": 640, "rollouts": 64}})
    files = (
        record.save(storage, folder),
        storage.write(f"{folder}/coordinator.json", progress.encode()),
    )
    commit(
        storage,
        Manifest(
            epoch=epoch,
            step=2,
            files=files,
            lineage=(Segment(epoch, 0),),
            dataset_fingerprint="",
            config_hash="",
            weight_version=2,
            belief_shards=1,
            learner_ranks=1,
            zero_stage=1,
            deepspeed_tag="",
        ),
    )
    written(tmp_path, "config.yaml", "seed: 1\n")
    config = config_of(tmp_path, "selector.start_charged=true")
    found, said = started(config, table)
    assert "64 responses to 12 of 120 prompts" in said[0]
    assert (found.rollouts, found.tokens) == (64, 640)
    assert sorted(found.evidence.ages.tolist()) == [0] * 8 + [1] * 8
    np.testing.assert_array_equal(found.evidence.found.successes, 2 - found.evidence.ages)
    assert read(tmp_path, config, MODEL).known.all()
    rewards = ("states.rule=variation", "selector.observation=rewards")
    config = config_of(tmp_path, *rewards, method="dps")
    with pytest.raises(DataError, match="has no means and deviations of rewards"):
        started(config, table)


def test_a_checkpoint_keeps_what_the_run_began_with(evaluation, table, tmp_path):
    config = config_of(evaluation(), method="offline_filter")
    found, _ = started(config, table)
    storage = Storage.at(tmp_path / "run")
    files = found.saving(storage, checkpoint_folder(1, 3))()
    manifest = Manifest(
        epoch=1,
        step=3,
        files=tuple(files),
        lineage=(Segment(1, 0),),
        dataset_fingerprint="",
        config_hash="",
        weight_version=3,
        belief_shards=1,
        learner_ranks=1,
        zero_stage=1,
        deepspeed_tag="",
    )
    (evaluation() / "results.json").unlink()
    again = start_of(config, table, table.ids, MODEL, storage, manifest, pytest.fail)
    assert isinstance(again, Start)
    assert (again.rollouts, again.tokens) == (found.rollouts, found.tokens)
    assert again.evidence.weight == found.evidence.weight
    np.testing.assert_array_equal(again.evidence.ages, found.evidence.ages)
    for ours, theirs in zip(again.evidence.found, found.evidence.found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
