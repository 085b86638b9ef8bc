import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dps_ray import PARTIAL, SOLVED, UNSOLVED, BeliefStore
from dps_ray.beliefs import hmm
from dps_ray.beliefs.priors import PRIORS, prior_counts
from dps_ray.beliefs.states import Observation

COUNTS = st.one_of(st.just(0.0), st.floats(1e-6, 1e3))
ARRAYS = st.lists(COUNTS, min_size=9, max_size=9).map(lambda counts: np.reshape(counts, (3, 3)))
PRIOR = st.one_of(st.sampled_from(list(PRIORS)), ARRAYS.filter(lambda a: a.any(axis=0).all()))
DECAY = st.one_of(st.sampled_from([0.0, 0.5, 0.7, 0.9, 0.99, 1.0]), st.floats(0, 1))
BELIEF = st.tuples(*[st.integers(0, 5)] * 3).filter(any).map(lambda w: np.array(w) / sum(w))


def random_steps(rng, prompts, steps):
    """Batches of every size with pauses between, over prompts that mostly keep to one state."""
    habits = rng.integers(0, 3, prompts)
    pause = 0
    for _ in range(steps):
        pause = pause - 1 if pause else int(rng.integers(0, 120)) * (rng.random() < 0.05)
        size = 0 if pause else int(rng.integers(0, rng.choice([2, 8, prompts + 1])))
        rows = rng.permutation(prompts)[:size]
        surprised = rng.random(size) < 0.3
        states = np.where(surprised, rng.integers(0, 3, size), habits[rows])
        yield rows, states.astype(np.int8)


@pytest.mark.slow
@settings(max_examples=20)
@given(PRIOR, DECAY, BELIEF, st.integers(0, 2**32))
def test_the_store_equals_a_sweep_over_all_prompts(prior, decay, initial, seed):
    rng = np.random.default_rng(seed)
    ids = rng.choice(10**9, 40, replace=False)
    store = BeliefStore(ids, decay=decay, prior=prior, initial=initial)
    beliefs, times = hmm.initial_beliefs(len(ids), initial), np.zeros(len(ids))
    alpha0 = prior_counts(prior)
    for rows, states in random_steps(rng, len(ids), 500):
        store.observe(Observation(ids[rows], states))
        beliefs = hmm.step(beliefs, rows, states, alpha0, decay)
        times[rows] += 1
        predicted = store.predicted(ids)
        np.testing.assert_allclose(predicted, beliefs.predicted.T, atol=1e-7, rtol=0)
        np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-12)
        assert (predicted >= 0).all()
    alpha = np.moveaxis(beliefs.evidence, -1, 0) + alpha0
    np.testing.assert_allclose(store.transition_counts(ids), alpha, atol=1e-7, rtol=1e-9)
    np.testing.assert_array_equal(store.times_sampled(ids), times)


@settings(max_examples=20)
@given(DECAY, st.sampled_from([0.0, 0.3]), st.integers(0, 2**32))
def test_the_best_by_score_then_by_times_sampled_are_selected(decay, weight, seed):
    rng = np.random.default_rng(seed)
    ids = np.arange(60)
    store = BeliefStore(ids, decay=decay, entropy_weight=weight, seed=seed)
    for rows, states in random_steps(rng, len(ids), 150):
        store.observe(Observation(rows, states))
        chosen = store.select(7)
        beliefs = store.predicted(ids)
        score = np.round(beliefs[:, 1] + weight * hmm.entropy(beliefs.T), 12)
        order = np.lexsort((store.times_sampled(ids), -score))[:7]
        np.testing.assert_array_equal(chosen.score, score[order])
        np.testing.assert_array_equal(chosen.times_sampled, store.times_sampled(order))
        np.testing.assert_array_equal(chosen.predicted, store.predicted(chosen.ids))
        np.testing.assert_array_equal(chosen.times_sampled, store.times_sampled(chosen.ids))
        assert len(set(chosen.ids.tolist())) == 7


def test_a_prompt_seen_partial_scores_two_fifths_and_comes_first():
    store = BeliefStore([10, 11, 12, 13])
    store.observe(Observation([10, 11, 12], [UNSOLVED, PARTIAL, SOLVED]))
    chosen = store.select(4)
    assert chosen.ids[:2].tolist() == [11, 13]
    np.testing.assert_allclose(chosen.score, [0.4, 1 / 3, 0.3, 0.3], atol=1e-12)


def test_scores_that_are_equal_on_paper_are_equal():
    store = BeliefStore(np.arange(2), decay=0.7)
    for low, high in [(0, 2), (0, 2), (1, 1), (0, 2), (2, 0)]:
        store.observe(Observation([0, 1], [low, high]))
        score = store.select(2).score
        assert score[0] == score[1]


def test_ties_follow_the_seed_and_not_the_order_of_the_ids():
    ids = np.arange(1000)
    first = BeliefStore(ids, seed=1).select(20).ids
    shuffled = np.random.default_rng(0).permutation(ids)
    assert BeliefStore(shuffled, seed=1).select(20).ids.tolist() == first.tolist()
    assert BeliefStore(ids, seed=2).select(20).ids.tolist() != first.tolist()


def test_selecting_changes_nothing():
    store = BeliefStore(np.arange(100))
    store.observe(Observation(np.arange(9), [1] * 9))
    first = store.select(30)
    for size in (100, 1, 0, 50):
        store.select(size)
    np.testing.assert_array_equal(store.select(30).ids, first.ids)


def test_a_prompt_that_was_chosen_but_not_observed_comes_again():
    store = BeliefStore(np.arange(5000))
    failing = store.select(1).ids
    for _ in range(50):
        batch = store.select(20).ids
        assert failing[0] in batch
        store.observe(Observation(np.setdiff1d(batch, failing), [UNSOLVED] * 19))


def test_excluded_prompts_are_passed_over():
    store = BeliefStore(np.arange(200), decay=0.5)
    for step in range(60):
        usual = store.select(40).ids
        rest = store.select(20, exclude=usual[:20])
        assert rest.ids.tolist() == usual[20:].tolist()
        store.observe(Observation(usual[:20], np.arange(20) % 3 * (step % 7 > 2)))


def test_all_prompts_can_be_selected_whatever_became_of_them():
    for decay in (0.0, 0.5, 1.0):
        store = BeliefStore(np.arange(50), decay=decay)
        for step in range(80):
            store.observe(Observation(np.arange(step % 25), [step % 3] * (step % 25)))
            assert sorted(store.select(50).ids) == list(range(50))


class TestCandidates:
    def test_as_a_number_are_that_many_and_the_best_of_them_are_taken(self):
        store = BeliefStore(np.arange(300), decay=0.7)
        store.observe(Observation(np.arange(0, 300, 2), [1] * 150))
        candidates = store.select(40, candidates=40).ids
        best = store.select(10, candidates=40)
        assert set(best.ids) <= set(candidates)
        assert best.score.min() >= np.sort(store.predicted(candidates)[:, 1])[-10] - 1e-12

    def test_as_a_share_are_about_that_many(self):
        store = BeliefStore(np.arange(10_000))
        assert 800 < len(store.select(10_000, candidates=0.1).ids) < 1200
        assert len(store.select(10_000, candidates=1.0).ids) == 10_000

    def test_are_others_at_the_next_step_and_all_come_in_the_end(self):
        store, met = BeliefStore(np.arange(100)), set()
        for _ in range(60):
            met.update(store.select(10, candidates=10).ids.tolist())
            store.observe(Observation([], []))
        assert met == set(range(100))

    def test_leave_excluded_prompts_out(self):
        store = BeliefStore(np.arange(100))
        usual = store.select(30, candidates=30).ids
        other = store.select(30, candidates=30, exclude=usual).ids
        assert not set(usual) & set(other)


class TestCost:
    """Rows and bytes, which decide the time: it must not depend on the pool."""

    def steps(self, store, steps, batch=32, state=UNSOLVED):
        for _ in range(steps):
            ids = store.select(batch).ids
            store.observe(Observation(ids, [state] * batch))

    @pytest.mark.parametrize("decay", [0.0, 0.5, 0.7])
    def test_prompts_long_not_seen_have_no_row(self, decay):
        store = BeliefStore(np.arange(20_000), decay=decay)
        self.steps(store, 300)
        few_dozen_steps = {0.0: 10, 0.5: 42, 0.7: 75}[decay]
        assert store.metrics()["beliefs/prompts_seen"] == 300 * 32
        assert store.metrics()["beliefs/active_rows"] <= few_dozen_steps * 32

    def test_with_decay_1_converged_prompts_stop_moving_but_keep_what_they_learned(self):
        store = BeliefStore(np.arange(20_000), decay=1.0)
        self.steps(store, 300)
        metrics = store.metrics()
        assert metrics["beliefs/resting_rows"] > 0.8 * 300 * 32
        assert metrics["beliefs/active_rows"] < 60 * 32
        assert (store.transition_counts(np.arange(20_000)).sum(axis=(1, 2)) > 9.99).sum() == 9600

    def test_an_idle_prompt_takes_at_most_32_bytes(self):
        ids = np.arange(100_000)
        store = BeliefStore(ids, decay=0.0)
        assert store.nbytes / len(ids) < 18
        for part in np.array_split(ids, 200):
            store.observe(Observation(part, np.zeros(len(part))))
        for _ in range(10):
            store.observe(Observation([], []))
        assert store.metrics()["beliefs/active_rows"] == 0
        rows = store._moving.nbytes
        assert (store.nbytes - rows) / len(ids) <= 32


def test_decay_0_forgets_all_but_the_last_step():
    once, twice = BeliefStore([0]), BeliefStore([0], decay=0.0)
    once = BeliefStore([0], decay=0.0)
    once.observe(Observation([], []))
    once.observe(Observation([0], [PARTIAL]))
    for state in (SOLVED, UNSOLVED, SOLVED):
        twice.observe(Observation([0], [state]))
    for _ in range(3):
        twice.observe(Observation([], []))
    twice.observe(Observation([0], [PARTIAL]))
    np.testing.assert_array_equal(once.predicted([0]), twice.predicted([0]))


def test_decay_1_counts_every_move_for_ever():
    store = BeliefStore([0], decay=1.0)
    for _ in range(10):
        store.observe(Observation([0], [PARTIAL]))
    for _ in range(1000):
        store.observe(Observation([], []))
    assert store.transition_counts([0])[0].sum() == pytest.approx(9 + 10)


def test_under_a_prior_that_is_not_uniform_prompts_never_seen_drift_together():
    store = BeliefStore(np.arange(3), prior="progress")
    sweep = hmm.initial_beliefs(1, [1 / 3] * 3)
    for _ in range(5):
        store.observe(Observation([], []))
        sweep = hmm.step(sweep, np.array([], int), np.array([], int), PRIORS["progress"], 0.7)
        np.testing.assert_array_equal(store.predicted([0, 2]), [sweep.predicted[:, 0]] * 2)
    assert store.predicted([0])[0, 2] > 0.37


class TestWrongInput:
    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"decay": 1.5}, "decay must lie between 0 and 1, not 1.5"),
            ({"decay": float("nan")}, "nan"),
            ({"tolerance": -1e-9}, "-1e-09"),
            ({"entropy_weight": float("inf")}, "inf"),
            ({"prior": "flat"}, "'flat' is unknown; write one of uniform, progress"),
            ({"prior": np.ones((2, 3))}, r"\(2, 3\)"),
            ({"prior": [[1, 1, -2], [1, 1, 1], [1, 1, 1]]}, "-2"),
            ({"prior": np.full((3, 3), np.nan)}, "nan"),
            ({"prior": [[1, 0, 1], [1, 0, 1], [1, 0, 1]]}, "column 1"),
            ({"initial": [0.5, 0.6, 0.5]}, "0.6"),
            ({"initial": [np.nan, 0.5, 0.5]}, "nan"),
        ],
    )
    def test_in_a_setting_names_the_value(self, settings, named):
        with pytest.raises(ValueError, match=named):
            BeliefStore(np.arange(3), **settings)

    @pytest.mark.parametrize(
        ("ids", "states", "named"),
        [
            ([0, 9], [1, 1], "id 9 is not in the pool"),
            ([1, 2, 1], [1, 1, 1], "id 1 is given twice"),
            ([0, 1], [1, 3], "state 3"),
            ([0, 1], [1, -1], "state -1"),
            ([0, 1], [1.0, np.nan], "state nan"),
            ([0, 1], [1, 0.5], "state 0.5"),
            ([0, 1], [1], "2 ids"),
            ([0.0, np.nan], [1, 1], "float64"),
        ],
    )
    def test_in_an_observation_names_the_value_and_changes_nothing(self, ids, states, named):
        store, untouched = BeliefStore(np.arange(5)), BeliefStore(np.arange(5))
        with pytest.raises(ValueError, match=named):
            store.observe(Observation(ids, states))
        store.observe(Observation([3], [PARTIAL]))
        untouched.observe(Observation([3], [PARTIAL]))
        for store_, other in zip(store.select(5), untouched.select(5), strict=True):
            np.testing.assert_array_equal(store_, other)
        assert store.metrics() == untouched.metrics()

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"size": 6}, "6 prompts were asked for, and 5 can be chosen"),
            ({"size": -1}, "-1 prompts"),
            ({"size": 4, "exclude": [0, 1]}, "3 can be chosen"),
            ({"size": 1, "exclude": [7]}, "id 7"),
            ({"size": 1, "exclude": [2, 2]}, "id 2 is given twice"),
            ({"size": 3, "candidates": 2}, "2 can be chosen"),
            ({"size": 3, "candidates": 1.5}, "1.5"),
            ({"size": 3, "candidates": float("nan")}, "nan"),
        ],
    )
    def test_in_a_selection_names_the_value(self, arguments, named):
        with pytest.raises(ValueError, match=named):
            BeliefStore(np.arange(5)).select(**arguments)

    @pytest.mark.parametrize("ask", ["predicted", "transition_counts", "times_sampled"])
    def test_in_a_question_names_the_id(self, ask):
        with pytest.raises(ValueError, match="id 5"):
            getattr(BeliefStore(np.arange(5)), ask)([4, 5])

    def test_an_index_made_with_another_seed_is_refused(self):
        index = BeliefStore(np.arange(5), seed=1).index
        with pytest.raises(ValueError, match="seed 1, not 2"):
            BeliefStore(index, seed=2)
