"""Groups that train again: which ones, how often, and the same after a resume."""

from itertools import chain

import numpy as np
import pytest

from dps_ray.config import Config, ReplaySettings
from dps_ray.durable import Manifest, Segment, Storage, checkpoint_folder
from dps_ray.errors import ConfigError
from pipelines.rollout.training_groups import TrainingGroup
from pipelines.training.replay import Replay

SETTINGS = ReplaySettings(steps=3, share=0.25)


def group(prompt_id, partial=True, images=()):
    rng = np.random.default_rng(prompt_id)
    lengths = rng.integers(0, 5, size=2 + prompt_id % 3)
    return TrainingGroup(
        prompt_id,
        rng.integers(0, 99, size=3).astype(np.int32),
        [rng.integers(0, 99, size=n).astype(np.int32) for n in lengths],
        [rng.random(n).astype(np.float32) for n in lengths],
        rng.standard_normal(len(lengths)),
        partial,
        images,
    )


def groups(start, count=12):
    return [group(start + i) for i in range(count)]


def steps(replay, first, last):
    """The ids and steps of the groups that train again in these steps of 12 new groups each."""
    used = []
    for step in range(first, last + 1):
        used.append([(kept.group.prompt_id, kept.step) for kept in replay.take(step, 12)])
        replay.add(step, groups(100 * step))
    return used


def test_a_quarter_of_the_groups_are_of_the_steps_before():
    used = steps(Replay(SETTINGS, seed=1), 1, 8)
    assert [len(each) for each in used] == [0, *[4] * 7]  # 4 of 16
    for step, each in enumerate(used, 1):
        assert all(0 < step - born <= SETTINGS.steps for _, born in each)


def test_each_group_trains_again_once_at_most():
    used = [each for step in steps(Replay(SETTINGS, seed=1), 1, 20) for each in step]
    assert len(used) == len(set(used))


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_groups():
    def used(seed, order):
        replay = Replay(SETTINGS, seed)
        replay.add(1, groups(100)[::order])
        return sorted(kept.group.prompt_id for kept in replay.take(2, 12))

    assert used(1, 1) == used(1, -1)
    assert used(1, 1) != used(2, 1)


def test_groups_that_are_not_partial_are_not_kept():
    replay = Replay(SETTINGS, seed=1)
    replay.add(1, [group(1, partial=False), group(2)])
    assert [kept.group.prompt_id for kept in replay.take(2, 12)] == [2]


def test_without_the_setting_nothing_is_kept_or_written(tmp_path):
    replay = Replay(None, seed=1)
    assert steps(replay, 1, 3) == [[], [], []]
    assert replay.saving(Storage.at(tmp_path), "ckpt")() == []


def manifest(files, step):
    return Manifest(
        epoch=1,
        step=step,
        files=tuple(files),
        lineage=(Segment(1, 0),),
        dataset_fingerprint="",
        config_hash="",
        weight_version=step,
        belief_shards=1,
        learner_ranks=1,
        zero_stage=0,
        deepspeed_tag="",
    )


def test_a_resumed_run_trains_again_on_the_same_groups_bit_for_bit(tmp_path):
    storage, replay = Storage.at(tmp_path), Replay(SETTINGS, seed=1)
    steps(replay, 1, 3)
    replay.add(3, [group(7, images=(b"first", b"second")), group(8, images=(b"",))])
    saving = replay.saving(storage, checkpoint_folder(1, 3))
    expected = [replay.take(step, 21) for step in (4, 5)]  # after the checkpoint was begun
    resumed = Replay.load(SETTINGS, 1, storage, manifest(saving(), 3))
    found = [resumed.take(step, 21) for step in (4, 5)]
    assert [len(each) for each in found] == [7, 7]
    for before, after in zip(chain(*expected), chain(*found), strict=True):
        assert before.step == after.step
        one, other = before.group, after.group
        assert one[:1] + one[5:] == other[:1] + other[5:]
        for a, b in zip(
            [one.prompt_tokens, *one.tokens, *one.logprobs, one.advantages],
            [other.prompt_tokens, *other.tokens, *other.logprobs, other.advantages],
            strict=True,
        ):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_a_resumed_run_knows_which_tokens_of_episodes_the_policy_wrote(tmp_path):
    storage, replay = Storage.at(tmp_path), Replay(SETTINGS, seed=1)
    made = [
        each._replace(written=[tokens % 2 == 0 for tokens in each.tokens]) for each in groups(100)
    ]
    replay.add(1, made)
    files = replay.saving(storage, checkpoint_folder(1, 3))()
    found = Replay.load(SETTINGS, 1, storage, manifest(files, 3)).take(2, 12)
    by_id = {each.prompt_id: each for each in made}
    assert len(found) == 4
    for kept in found:
        for mask, same in zip(kept.group.written, by_id[kept.group.prompt_id].written, strict=True):
            assert mask.dtype == np.bool_
            np.testing.assert_array_equal(mask, same)


def test_an_empty_replay_can_be_written(tmp_path):
    storage = Storage.at(tmp_path)
    files = Replay(SETTINGS, seed=1).saving(storage, checkpoint_folder(1, 3))()
    assert Replay.load(SETTINGS, 1, storage, manifest(files, 3)).take(4, 12) == []


def test_replay_needs_the_importance_weight():
    with pytest.raises(ConfigError, match=r"objective\.importance_cap=2 or loop\.replay=null"):
        Config(loop={"replay": {}}, objective={"importance_cap": None})
    assert str(Config(loop={"replay": {}}).loop.replay) == "{steps: 4, share: 0.25}"
