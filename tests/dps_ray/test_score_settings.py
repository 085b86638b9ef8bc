"""Which score a selector has, by the settings of a run or of a `PromptSampler`."""

from typing import get_args

import pytest
from shards_in_process import IDS, Shards, config_of, population_of

from dps_ray import PromptSampler
from dps_ray.errors import ConfigError
from dps_ray.objective.published import ObjectiveName
from dps_ray.selection.signal import Score

K = 8


# docs/method.md, "The score, by objective".
SCORES = {
    "grpo": "partial",
    "gspo": "partial",
    "cispo": "partial",
    "dr_grpo": "variance",
    "rloo": "variance",
    "reinforce_plus_plus_baseline": "variance",
    "reinforce_plus_plus": "batch",
    "ppo": "surprise",
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("method", ["dps", "dps_pooled"])
def test_the_score_follows_the_objective_only_where_that_is_asked_for(method, name):
    def score(*overrides):
        config = config_of([f"method={method}", f"objective.name={name}", *overrides])
        (selector,) = Shards(config, population_of(config, None), 1).mixtures[0].selectors
        return selector.snapshot().get("score", "partial")

    assert score() == "partial"
    assert score("selector.score=objective") == SCORES[name]
    assert score("selector.score=variance") == "variance"


def test_every_objective_has_a_score():
    assert set(SCORES) == set(get_args(ObjectiveName))
    assert set(SCORES.values()) == set(get_args(Score))


def test_the_score_is_that_of_the_advantages_whatever_the_objective_is_called():
    config = config_of(
        ["method=dps", "selector.score=objective", "objective.name=grpo", "objective.scale=none"]
    )
    (selector,) = Shards(config, population_of(config, None), 1).mixtures[0].selectors
    assert selector.snapshot()["score"] == "variance"


def test_an_objective_without_right_and_wrong_responses_keeps_p_partial():
    rules = ["objective.name=rloo", "selector.score=objective", "states.rule=variation"]
    config = config_of(["method=dps", "selector.observation=rewards", *rules])
    run = Shards(config, population_of(config), 2)
    assert len(run.run(2)[1].ids) == 16
    config = config_of(["method=dps", *rules])
    (selector,) = Shards(config, population_of(config, None), 1).mixtures[0].selectors
    assert "score" not in selector.snapshot()


def test_a_prompt_sampler_takes_the_score_among_its_settings():
    keys = [int(each) for each in IDS[:40]]

    def first(**settings):
        sampler = PromptSampler(keys, method="dps", group_size=K, **settings)
        for key in sampler.take(20):
            right = 0 if key % 5 else K
            sampler.report([key], [[1.0] * right + [0.0] * (K - right)])
        assert sampler.metrics()["steps"] == 1
        return sampler.take(10)

    assert first(score="objective") == first(score="partial") == first()
    assert first(score="batch") != first()
    with pytest.raises(ConfigError, match="score='gain': it must be 'objective' or 'partial'"):
        PromptSampler(keys, method="dps", score="gain")
