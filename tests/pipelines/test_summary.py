import pytest

from pipelines.monitoring.summary import duration, headline, summarize
from pipelines.training.summary import saved


def interval(mean, margin=0.04):
    return {"mean": mean, "low": mean - margin, "high": mean + margin, "n": 400}


def account(**changed):
    return {
        "method": "dps",
        "steps": 60,
        "accuracy_before": interval(0.24),
        "accuracy_after": interval(0.51),
        "rollouts": 30720,
        "tokens": 720000,
        "uniform_effective_ratio": 0.381,
        "gradient_share": 0.72,
        "distinct_prompts": 2310,
        "pool": 3300,
        "seconds": 170.4,
        "checkpoint": "runs/a/ckpt/e0001/step=00000060/model",
        **changed,
    }


def test_a_clear_rise_is_told_in_plain_words():
    assert summarize(account()).splitlines() == [
        "Accuracy on held-out prompts rose from 24.0% to 51.0%.",
        "The 95% intervals, 20.0% to 28.0% and 47.0% to 55.0%, do not overlap.",
        "72.0% of the rollouts for training carried gradient; prompts drawn uniformly would have given 38.1%.",
        "2,310 of the pool's 3,300 prompts were rolled out in 60 steps and 2m50s: 30,720 rollouts of 720,000 tokens.",
        "Trained model: runs/a/ckpt/e0001/step=00000060/model",
    ]


def test_a_best_step_that_is_not_the_last_is_told_with_its_model():
    best = {"step": 40, "accuracy": 0.55, "model": "runs/a/ckpt/e0001/step=00000040/model"}
    words = summarize(account(best=best)).splitlines()
    assert words[2] == "Accuracy was highest after step 40, at 55.0%."
    assert words[-1] == "Best model: runs/a/ckpt/e0001/step=00000040/model"
    words = summarize(account(best={**best, "step": 0, "model": "models/start"}))
    assert "highest before training, at 55.0%" in words
    assert "highest" not in summarize(account(best={**best, "step": 60}))


def test_a_rise_within_the_intervals_is_not_called_one():
    words = summarize(account(accuracy_after=interval(0.29)))
    assert "went from 24.0% to 29.0%, which may be chance" in words
    assert "20.0% to 28.0% and 25.0% to 33.0%, overlap" in words
    assert "rose" not in words


def test_a_fall_is_called_a_fall():
    assert "fell from 24.0% to 11.0%" in headline(account(accuracy_after=interval(0.11)))


def test_a_fall_within_the_intervals_may_be_chance_too():
    words = headline(account(accuracy_before=interval(0.29), accuracy_after=interval(0.24)))
    assert "went from 29.0% to 24.0%, which may be chance" in words


def test_an_unmoved_accuracy_stayed():
    assert "stayed at 24.0%" in headline(account(accuracy_after=interval(0.2401)))


def test_without_evaluation_nothing_is_claimed():
    words = summarize(account(accuracy_before=None, accuracy_after=None))
    assert words.startswith("Trained for 60 steps; accuracy was not measured")
    assert "interval" not in words


def test_a_batch_worse_than_uniform_is_owned_up_to():
    words = summarize(account(gradient_share=0.3))
    assert "30.0% of the rollouts for training carried gradient" in words
    assert "would have given 38.1%, which is more." in words


@pytest.mark.parametrize("changed", [{"uniform_effective_ratio": None}, {"method": "uniform"}])
def test_without_a_comparison_none_is_drawn(changed):
    assert "drawn uniformly" not in summarize(account(**changed))


def test_a_run_without_checkpoint_names_no_model():
    assert "model" not in summarize(account(checkpoint=None))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0s"), (45, "45s"), (59.6, "1m00s"), (130, "2m10s"), (3900, "1h05m")],
)
def test_a_duration_has_two_units_at_most(seconds, words):
    assert duration(seconds) == words


SPENT = {
    "mixed": 100,
    "rollouts": 1200,
    "tokens_per_rollout": 50.0,
    "engine_seconds": 600.0,
    "uniform_ratio": 0.4,
    "group_size": 8,
    "price_per_engine_hour": 3.0,
}


def test_what_was_saved_is_counted_for_as_many_partial_groups():
    # Uniform sampling pays 8 / 0.4 = 20 rollouts for each of 100 groups, 2,000 for all: 800 more, two thirds of 1,200.
    assert saved(**SPENT) == {
        "uniform_rollouts_per_mixed_group": pytest.approx(20.0),
        "rollouts": 800,
        "tokens": 40_000,
        "engine_seconds": pytest.approx(400.0),
        "money": pytest.approx(1 / 3),
    }
    assert saved(**{**SPENT, "price_per_engine_hour": 0.0})["money"] is None


@pytest.mark.parametrize(
    "unknown", [{"mixed": 0}, {"uniform_ratio": 0.0}, {"uniform_ratio": float("nan")}]
)
def test_without_probes_or_partial_groups_nothing_is_said_to_be_saved(unknown):
    assert saved(**{**SPENT, **unknown}) is None


def test_savings_are_told_with_how_they_were_estimated():
    words = summarize(account(saved=saved(**SPENT), rollouts_per_mixed_group=12.0))
    assert (
        "A partial group cost 12.0 rollouts; by the probes, uniform sampling and Dynamic Sampling in full groups would "
        "have paid 20.0: for as many, 800 more rollouts, about 40,000 tokens, 6m40s of engine time and 0.33 in GPU hours."
    ) in words


def test_a_run_that_saved_nothing_owns_up_to_it():
    spent = saved(**{**SPENT, "rollouts": 2400})
    words = summarize(account(saved=spent, rollouts_per_mixed_group=24.0))
    assert "would have paid 20.0, which is no more." in words
