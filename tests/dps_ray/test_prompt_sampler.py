"""What a training framework relies on: keys in, keys out, rewards whenever and however they come."""

import io
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from dps_ray import Observation, PromptSampler
from dps_ray.beliefs.settings import StateSettings
from dps_ray.beliefs.states import states_of
from dps_ray.errors import CheckpointError, ConfigError, SamplerError
from dps_ray.prompts.ids import hashes_of
from dps_ray.sampler.keys import id_of
from dps_ray.selection import methods
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.selector import Context

KEYS = [f"problem {number}" for number in range(200)]
METHODS = ("dps", "dps_pooled", "uniform", "mopps", "greso")


def rewards_of(keys, step=0, size=8):
    """Of a policy that never solves a third of the prompts, always solves a third, and is right half of the time else."""
    rng = np.random.default_rng([step, 1])
    rates = [(0.0, 0.5, 1.0)[id_of(key) % 3] for key in keys]
    return (rng.random((len(keys), size)) < np.array(rates)[:, None]).astype(float)


def trained(sampler, steps, size=16, start=0):
    """What each step took, in a run that reports whole batches."""
    taken = []
    for step in range(start, start + steps):
        taken.append(sampler.take(size))
        sampler.report(taken[-1], rewards_of(taken[-1], step))
    return taken


def through_a_file(state):
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    return np.load(file, allow_pickle=False)


# --- keys -------------------------------------------------------------------------------------------


def test_keys_may_be_strings_integers_and_tuples_and_come_back_as_they_were():
    keys = ["a", 3, -5, ("gsm8k", 7), b"x", 2**70]
    assert sorted(map(repr, PromptSampler(keys).take(6))) == sorted(map(repr, keys))
    for rows in (range(9), np.arange(9, dtype=np.int32), np.arange(9, dtype=np.uint8)):
        taken = PromptSampler(rows).take(9)
        assert sorted(taken) == list(range(9))
        assert all(type(key) is int for key in taken)
    assert set(PromptSampler(np.array(["a", "b"])).take(2)) == {"a", "b"}
    assert set(PromptSampler(iter(["a", "b"])).take(2)) == {"a", "b"}


def test_a_string_has_the_id_that_the_pipeline_gives_to_the_same_content():
    import pyarrow as pa

    assert hashes_of(pa.array(["", "é", KEYS[5]])).tolist() == [
        id_of("é"[:0]),
        id_of("é"),
        id_of(KEYS[5]),
    ]


def test_an_integer_is_its_own_id_and_another_than_the_string_of_its_digits():
    assert (id_of(7), id_of(-7), id_of(np.int32(7)), id_of(True)) == (7, -7, 7, 1)
    assert len({id_of(7), id_of("7"), id_of((7,)), id_of(b"7")}) == 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "there are no keys"),
        (["a", "b", "a"], "the key 'a' occurs twice"),
        ([3, id_of("three"), "three"], "have the same id; rename one"),
        ([object()], "written differently in each process"),
        ([("a", frozenset("b"))], "written differently in each process"),
        ("abc", "give a list of keys"),
    ],
)
def test_keys_that_cannot_be_told_apart_or_found_again_are_refused(keys, message):
    with pytest.raises(SamplerError, match=message):
        PromptSampler(keys)


def test_neither_the_order_of_keys_nor_the_hash_seed_of_the_process_matters():
    program = (
        "from dps_ray import PromptSampler\n"
        "keys = {f'problem {number}' for number in range(200)}\n"  # in an order that PYTHONHASHSEED decides
        f"for method in {METHODS}:\n"
        "    sampler = PromptSampler(keys, method=method, kinds={key: len(key) for key in keys})\n"
        "    for step in range(6):\n"
        "        taken = sampler.take(16)\n"
        "        print(taken)\n"
        "        sampler.report(taken, [[0, sum(key.encode()) % 2] for key in taken])\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": ".", "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert len(set(said.pop().splitlines())) > 6 * 3


@pytest.mark.parametrize("method", METHODS)
def test_samplers_with_keys_in_another_order_choose_the_same(method):
    kinds = [len(key) for key in KEYS]
    one, other = (PromptSampler(KEYS[::way], method=method, kinds=kinds[::way]) for way in (1, -1))
    assert trained(one, 6) == trained(other, 6)


# --- choosing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_what_is_taken_is_not_taken_again_until_it_was_reported_or_released(method):
    sampler = PromptSampler(KEYS, method=method, batch=1000)
    first, second = sampler.take(60), sampler.take(60)
    assert len(set(first + second)) == 120
    assert sampler.in_flight == first + second
    sampler.release(first[:10])
    third = sampler.take(60)
    assert set(first[:10]) <= set(first[:10] + third)
    assert not set(third) & set(first[10:] + second)
    sampler.release()
    assert sampler.in_flight == []


def test_a_reported_prompt_is_not_taken_again_before_its_step_has_closed():
    sampler = PromptSampler(KEYS, method="dps", batch=32)
    (key,) = sampler.take(1)
    sampler.report([key], [[0, 1]])
    rest = sampler.take(16)
    assert key not in rest
    assert sampler.tick()
    assert sampler.take(1) == [key]  # the likeliest to be partial again


def test_a_batch_is_full_near_exhaustion_and_that_is_said_once():
    sampler = PromptSampler(KEYS[:10], method="dps", batch=100)
    first = sampler.take(6)
    with pytest.warns(RuntimeWarning, match="2 prompts were taken again"):
        second = sampler.take(6)
    assert second[:4] == [key for key in second if key not in first]
    assert second[4:] == first[:2]
    assert sampler.in_flight == [*first[2:], *second]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sampler.take(3) == first[2:5]
    assert sampler.metrics()["retaken"] == 5


def test_the_open_step_closes_early_where_its_prompts_are_needed():
    sampler = PromptSampler(KEYS[:10], method="dps", batch=100)
    first = sampler.take(8)
    sampler.report(first, rewards_of(first))
    assert sampler.metrics()["steps"] == 0
    assert len(set(sampler.take(8))) == 8
    assert sampler.metrics()["steps"] == 1
    assert sampler.metrics()["retaken"] == 0


def test_more_prompts_than_there_are_are_an_error_that_changes_nothing():
    sampler = PromptSampler(KEYS[:10])
    with pytest.raises(SamplerError, match=r"take\(11\): the pool has 10 prompts"):
        sampler.take(11)
    assert sampler.in_flight == []
    assert sampler.take(0) == []


# --- learning ---------------------------------------------------------------------------------------


def test_it_finds_the_partial_prompts_where_uniform_sampling_does_not():
    found = {}
    for method in ("dps", "dps_pooled", "uniform"):
        kinds = [id_of(key) % 3 for key in KEYS]
        sampler = PromptSampler(KEYS, method=method, kinds=kinds, rest=0)
        trained(sampler, 20)
        found[method] = sampler.metrics()["effective_ratio_mean"]
    assert found["dps"] > 0.8
    assert found["dps_pooled"] > 0.8
    assert found["uniform"] < 0.5


def test_a_step_closes_with_the_size_of_the_largest_take():
    sampler = PromptSampler(KEYS)
    keys = sampler.take(16)
    for done, key in enumerate(keys, start=1):
        sampler.report([key], [[0, 1]])
        assert sampler.metrics()["steps"] == (done == 16)


def test_prompts_taken_one_by_one_make_a_step_of_as_many_as_were_in_flight():
    sampler = PromptSampler(KEYS)
    keys = [sampler.take(1)[0] for _ in range(12)]
    for key in keys:
        sampler.report([key], [[0, 1]])
        sampler.take(1)
    assert sampler.metrics()["steps"] == 1


def test_failed_and_released_prompts_count_for_the_end_of_a_step():
    sampler = PromptSampler(KEYS, batch=4)
    a, b, c, d = sampler.take(4)
    sampler.report([a, b], [[0, 1], [np.nan, np.nan]])
    sampler.release([c])
    assert sampler.metrics()["steps"] == 0
    sampler.report([d], [[]])
    found = sampler.metrics()
    assert (found["steps"], found["groups"], found["failed"], found["released"]) == (1, 1, 2, 1)
    assert sampler.in_flight == []


def test_a_step_of_failures_alone_is_no_step():
    sampler = PromptSampler(KEYS, method="dps", batch=2)
    keys = sampler.take(2)
    sampler.report(keys, [[np.nan], []])
    assert sampler.metrics()["steps"] == 0
    assert not sampler.tick()
    assert sampler.take(2) == keys


def test_responses_that_failed_are_no_observation_of_the_others():
    ragged, whole = (PromptSampler(KEYS, method="dps", batch=3) for _ in range(2))
    keys = ragged.take(3)
    assert keys == whole.take(3)
    ragged.report(keys, [[0, np.nan, 1], [np.nan, 0, 0, 0], [1]])
    whole.report(keys, [[0, 1], [0, 0, 0], [1]])
    assert ragged.take(50) == whole.take(50)


def test_a_late_report_counts_for_the_step_that_is_open_when_it_comes():
    sampler = PromptSampler(KEYS, method="dps", batch=4)
    slow, *quick = sampler.take(5)
    sampler.report(quick, [[0, 0]] * 4)
    assert sampler.metrics()["steps"] == 1
    sampler.report([slow], [[0, 1]])
    sampler.tick()
    found = sampler.metrics()
    assert (found["steps"], found["groups"], found["late"]) == (2, 5, 0)
    assert sampler.take(1) == [slow]


def test_a_key_that_is_not_in_flight_is_observed_and_counted():
    sampler = PromptSampler(KEYS, method="dps", batch=1)
    sampler.report([KEYS[7]], [[0, 1, 1, 0]])
    assert sampler.take(1) == [KEYS[7]]
    assert (sampler.metrics()["late"], sampler.metrics()["distinct"]) == (1, 1)


@pytest.mark.parametrize(
    ("keys", "rewards", "accuracies", "message"),
    [
        ([KEYS[0], "unknown"], [[1, 0], [1, 0]], None, "the key 'unknown' is not in the pool"),
        ([KEYS[0], 17], [[1, 0], [1, 0]], None, "the key 17 is not in the pool"),
        (KEYS[0], [[1, 0]], None, "give a list of keys"),
        (KEYS[:2], [[1, 0]], None, "2 keys came with 1 groups"),
        (KEYS[:2], [[1, 0], [np.inf, 0]], None, "a reward must be finite"),
        (KEYS[:2], [[1, 0], 1.0], None, "give one number for each response"),
        (KEYS[:2], [[1, 0], ["x"]], None, "are not numbers"),
        (KEYS[:2], [[1, 0]] * 2, [[1, 0], [1]], "2 rewards came with 1 accuracies"),
        (KEYS[:2], [[1, 0]] * 2, [[1, 0], [1, 2]], "an accuracy is 2.0"),
    ],
)
def test_a_report_that_cannot_be_right_is_refused_and_loses_nothing(
    keys, rewards, accuracies, message
):
    sampler = PromptSampler(KEYS, batch=100)
    taken = sampler.take(150)
    with pytest.raises(SamplerError, match=message):
        sampler.report(keys, rewards, accuracies)
    assert sampler.in_flight == taken
    assert sampler.metrics()["open_groups"] == 0


def test_accuracies_decide_where_they_are_given_and_else_the_threshold():
    for arguments, reported in (
        ({}, {"rewards": [[1.1, 0.1]], "accuracies": [[1, 0]]}),
        ({"threshold": 1.1}, {"rewards": [[1.1, 0.1]]}),
        ({"states": "variation"}, {"rewards": [[1.1, 0.1]]}),
        ({"states": {"rule": "thresholds", "low": 0.1, "high": 1.1}}, {"rewards": [[1.1, 0.1]]}),
    ):
        sampler = PromptSampler(KEYS, batch=1, **arguments)
        sampler.report([KEYS[0]], **reported)
        assert sampler.metrics()["effective_ratio"] == 1, arguments
    sampler = PromptSampler(KEYS, batch=1, threshold=0.1)
    sampler.report([KEYS[0]], [[1.1, 0.1]])
    assert sampler.metrics()["effective_ratio"] == 0


def test_dps_learns_from_rewards_themselves():
    sampler = PromptSampler(KEYS, method="dps", states="variation", observation="rewards", batch=3)
    keys = sampler.take(3)
    sampler.report(keys, [[0.1, 0.2], [0.5, 0.5], [0.7]])
    assert sampler.take(1) == keys[:1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "dsp"}, "'dps', 'dps_pooled', 'uniform'"),
        ({"decay": 2}, "decay=2: it must be 1 or less"),
        ({"decya": 0.5}, "decya=0.5: there is no such setting; there are rest, max_uses"),
        ({"method": "dps", "observation": "count"}, "observation='count': it must be 'states' or"),
        ({"method": "dps", "observation": "rewards"}, "set it to variation"),
        ({"states": "var"}, "rule='var': it must be 'right' or"),
        ({"states": {"low": 2}}, "low must be the smaller"),
        ({"group_size": 1}, "a group needs 2 responses"),
        ({"batch": 0}, "batch=0: write 1 or more"),
        ({"start": "run"}, "start='run': selector.start is a setting of the training pipeline"),
        ({"method": "dps", "start_weight": 1.0}, "use load_state_dict to begin with the beliefs"),
        ({"method": "mopps", "start_charged": True}, "leave it out"),
        ({"method": "uniform", "start": "run"}, "there is no such setting; there are rest"),
        ({"method": "offline_filter"}, "give only the keys to keep, with method='uniform'"),
    ],
)
def test_a_wrong_argument_is_named_with_what_to_write_instead(arguments, message):
    with pytest.raises(ConfigError) as error:
        PromptSampler(KEYS, **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["a"], "200 keys came with 1 kinds"),
        ({KEYS[0]: "a"}, f"kinds has nothing for the key {KEYS[1]!r}"),
        ([0.5] * 200, "the kind 0.5 is neither a string nor an integer"),
    ],
)
def test_kinds_that_are_not_one_for_each_key_are_refused(kinds, message):
    with pytest.raises(SamplerError, match=message):
        PromptSampler(KEYS, kinds=kinds)


def test_a_selector_of_ones_own_is_named_as_in_a_run():
    sampler = PromptSampler(KEYS, method="examples/nearest_half.py:NearestHalf", decay=0.0)
    trained(sampler, 3)
    state = through_a_file(sampler.state_dict())
    again = PromptSampler(KEYS, method="examples/nearest_half.py:NearestHalf", decay=0.0)
    again.load_state_dict(state)
    assert trained(again, 3) == trained(sampler, 3)
    assert "uniform_ratio" not in sampler.metrics()


def test_a_misspelled_setting_is_not_answered_with_settings_that_are_refused():
    with pytest.raises(ConfigError) as error:
        PromptSampler(KEYS, strt="run")
    assert "start" not in str(error.value)


# --- looking ----------------------------------------------------------------------------------------


def test_what_uniform_sampling_would_give_is_estimated_by_kind():
    # Nine of ten prompts are of a kind that is never solved, and pooled beliefs soon leave it alone.
    keys = range(5000)
    sampler = PromptSampler(keys, kinds=[int(key % 10 == 0) for key in keys], rest=0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        taken = sampler.take(64)
        sampler.report(taken, [rng.random(8) < (key % 10 == 0) / 2 for key in taken])
    found = sampler.metrics()
    assert found["effective_ratio"] > 0.8
    assert found["uniform_ratio"] == pytest.approx(0.1, abs=0.01)
    uniform = PromptSampler(keys, method="uniform")
    assert "uniform_ratio" not in uniform.metrics()
    for _ in range(30):
        taken = uniform.take(64)
        uniform.report(taken, [rng.random(8) < (key % 10 == 0) / 2 for key in taken])
    assert uniform.metrics()["uniform_ratio"] == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("method", ["dps", "mopps", "dps_pooled"])
def test_uniform_sampling_is_not_estimated_where_prompts_never_observed_are_told_apart(method):
    sampler = PromptSampler(KEYS, method=method)
    ids = np.sort([id_of(key) for key in KEYS])[::2]
    rights = np.arange(len(ids)) % 9
    found = Observation(ids, states_of(rights, 8), rights, np.full(len(ids), 8))
    begun = methods.make(
        method,
        [id_of(key) for key in KEYS],
        methods.load(method).Settings(),
        Context(0, len(KEYS), 8, StateSettings(), None),
    )
    begun.begin(Evidence(found, np.zeros(len(ids), np.int32), 1.0))
    state = {name: value for name, value in sampler.state_dict().items() if "selector." not in name}
    known = {f"selector.{name}": value for name, value in begun.snapshot().items()}
    sampler.load_state_dict(through_a_file({**state, **known}))
    trained(sampler, 5)
    # Pooled beliefs know clusters, and prompts within them are alike.
    assert ("uniform_ratio" in sampler.metrics()) == (method == "dps_pooled")
    again = PromptSampler(KEYS, method=method)
    again.load_state_dict(through_a_file(sampler.state_dict()))
    assert trained(again, 5, start=5) == trained(sampler, 5, start=5)


def test_calibration_compares_what_was_predicted_when_prompts_were_taken_with_what_was_found():
    sampler = PromptSampler(KEYS, method="dps", batch=2)
    keys = sampler.take(2)
    sampler.report(keys, [[0, 1], [0, 0]])
    found = sampler.metrics()
    assert found["predicted_ratio"] == pytest.approx(1 / 3)
    assert found["foretold_ratio"] == 0.5
    assert found["brier"] == pytest.approx((4 / 9 + 1 / 9) / 2)
    uniform = PromptSampler(KEYS, method="uniform", batch=2)
    uniform.report(uniform.take(2), [[0, 1], [0, 0]])
    assert "brier" not in uniform.metrics()
    assert uniform.metrics()["effective_ratio"] == 0.5


# --- keeping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_sampler_chooses_as_one_that_never_stopped(method):
    def new():
        return PromptSampler(KEYS, method=method, kinds=[len(key) for key in KEYS], max_uses=2)

    sampler = new()
    trained(sampler, 6)
    again = new()
    resumed = again.load_state_dict(through_a_file(sampler.state_dict()))
    assert (resumed.added, resumed.dropped, resumed.freed) == (0, 0, 0)
    assert resumed.known == sampler.metrics()["distinct"]
    assert again.metrics() == sampler.metrics()
    assert trained(again, 20, start=6) == trained(sampler, 20, start=6)
    assert again.metrics() == sampler.metrics()


def test_reports_of_the_open_step_are_kept_and_prompts_in_flight_are_freed():
    sampler = PromptSampler(KEYS, method="dps", batch=16)
    keys = sampler.take(16)
    rewards = rewards_of(keys)
    sampler.report(keys[:10], rewards[:10])
    again = PromptSampler(KEYS, method="dps", batch=16)
    assert again.load_state_dict(through_a_file(sampler.state_dict())).freed == 6
    assert again.in_flight == []
    assert again.take(6) == keys[10:]  # nothing has moved: they are the next once more
    for one in (sampler, again):
        one.report(keys[10:], rewards[10:])
    assert again.metrics() == sampler.metrics()
    assert again.take(30) == sampler.take(30)


@pytest.mark.parametrize("method", METHODS)
def test_keys_that_came_are_new_and_keys_that_went_never_come_again(method):
    def new(keys):
        return PromptSampler(keys, method=method, kinds={key: len(key) for key in keys})

    sampler = new(KEYS)
    trained(sampler, 5)
    seen = int(sampler.metrics()["distinct"])
    keys = [*KEYS[50:], *(f"added {number:09}" for number in range(30))]
    changed = new(keys)
    resumed = changed.load_state_dict(sampler.state_dict())
    assert (resumed.added, resumed.dropped) == (30, 50)
    assert resumed.known == changed.metrics()["distinct"] < seen
    for taken in trained(changed, 12):
        assert set(taken) <= set(keys)
    saved = through_a_file(changed.state_dict())
    again = new(keys)
    assert again.load_state_dict(saved)[:2] == (0, 0)
    assert trained(again, 5) == trained(changed, 5)
    back = new(KEYS)
    assert back.load_state_dict(saved).added == 50
    assert set(back.take(200)) == set(KEYS)


def test_a_state_of_another_sampler_is_refused_and_changes_nothing():
    state = PromptSampler(KEYS, decay=0.5).state_dict()
    for arguments, message in (
        ({"method": "dps"}, "method='dps_pooled', and this sampler has 'dps'"),
        ({"decay": 0.6}, "decay=0.5, and this selector has 0.6"),
        ({"decay": 0.5, "seed": 1}, "seed=0, and this selector has 1"),
        ({"decay": 0.5, "kinds": KEYS}, "saved without kinds, and this sampler was made with"),
    ):
        sampler = PromptSampler(KEYS, **arguments)
        taken = sampler.take(3)
        with pytest.raises(CheckpointError, match=message):
            sampler.load_state_dict(state)
        assert sampler.in_flight == taken
    with pytest.raises(CheckpointError, match="this is no state of a PromptSampler"):
        PromptSampler(KEYS).load_state_dict({"step": 3})
    with pytest.raises(CheckpointError, match="update dps_ray"):
        PromptSampler(KEYS).load_state_dict({**state, "format": 99})


def test_several_threads_take_and_report_without_losing_a_prompt():
    sampler = PromptSampler(range(2000), method="dps", batch=32)
    twice, seen, lock = [], set(), threading.Lock()

    def work():
        for _ in range(40):
            keys = sampler.take(4)
            with lock:
                twice.extend(seen.intersection(keys))
                seen.update(keys)
            with lock:
                seen.difference_update(keys)
                sampler.report(keys, [[0, 1]] * 4)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sampler.tick()
    assert twice == []
    assert sampler.in_flight == []
    assert sampler.metrics()["groups"] == 8 * 40 * 4
