import numpy as np
import pytest

from dps_ray import UniformSelector
from dps_ray.beliefs.states import Observation

IDS = np.random.default_rng(0).choice(10**9, 100, replace=False)


def epoch(selector, batch, batches, fails=()):
    drawn = []
    for _ in range(batches):
        ids = selector.select(batch).ids
        drawn.append(ids)
        observed = ids[~np.isin(ids, fails)]
        selector.observe(Observation(observed, np.zeros(len(observed))))
    return np.concatenate(drawn)


def test_an_epoch_draws_every_prompt_once():
    selector = UniformSelector(IDS)
    for _ in range(3):
        assert sorted(epoch(selector, 10, 10)) == sorted(IDS)


def test_each_epoch_has_an_order_of_its_own():
    selector = UniformSelector(IDS)
    first, second = epoch(selector, 10, 10), epoch(selector, 10, 10)
    assert first.tolist() != second.tolist()
    assert len(set(first[:30]) & set(second[:30])) < 20


def test_a_batch_at_the_end_of_an_epoch_is_filled_from_the_next():
    selector = UniformSelector(IDS)
    epoch(selector, 30, 3)
    batch = selector.select(30)
    assert batch.times_sampled.tolist() == [0] * 10 + [1] * 20
    assert len(set(batch.ids.tolist())) == 30
    selector.observe(Observation(batch.ids, [0] * 30))
    times = selector.times_sampled(IDS)
    assert times.min() == 1
    assert times.sum() == 120


def test_every_prompt_is_as_likely_to_come_early():
    early = np.zeros(20)
    for seed in range(500):
        early[UniformSelector(np.arange(20), seed=seed).select(5).ids] += 1
    assert early.min() > 85
    assert early.max() < 170


def test_a_prompt_whose_rollout_failed_comes_again_at_once():
    selector = UniformSelector(IDS)
    failing = selector.select(1).ids
    drawn = epoch(selector, 10, 30, fails=failing)
    assert (drawn == failing[0]).sum() == 30
    selector.observe(Observation(failing, [1]))
    assert selector.times_sampled(failing)[0] == 1
    assert selector.select(100).ids.size == 100


def test_it_predicts_nothing_and_scores_all_alike():
    batch = UniformSelector(IDS).select(4)
    assert np.isnan(batch.predicted).all()
    assert batch.score.tolist() == [0] * 4


def test_prompts_in_flight_are_passed_over():
    selector = UniformSelector(IDS)
    usual = selector.select(30).ids
    assert selector.select(20, exclude=usual[:10]).ids.tolist() == usual[10:].tolist()


def test_it_counts_the_prompts_it_has_seen():
    selector = UniformSelector(IDS)
    epoch(selector, 10, 3)
    assert selector.metrics()["beliefs/prompts_seen"] == 30


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda s: s.select(101), "101 prompts"),
        (lambda s: s.select(1, exclude=[-5]), "id -5"),
        (lambda s: s.observe(Observation([-5], [0])), "id -5"),
        (lambda s: s.observe(Observation(IDS[:1], [4])), "state 4"),
        (lambda s: s.observe(Observation(IDS[[1, 1]], [0, 0])), "given twice"),
    ],
)
def test_wrong_input_is_named(call, named):
    with pytest.raises(ValueError, match=named):
        call(UniformSelector(IDS))
