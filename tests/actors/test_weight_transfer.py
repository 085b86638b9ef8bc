"""After a publish the engine gives the learner's log-probabilities, whatever is tied, sharded or an adapter."""

import numpy as np
import pytest

from actors.health import Quarantine
from actors.learner import Learner
from actors.managed_actor import RestartTracker
from actors.requests import Request, Sampling
from actors.rollout import Rollouts
from cluster.placement import Placement, plan
from dps_ray.config import settings
from dps_ray.durable import Storage
from dps_ray.objective.trajectories import concatenate
from dps_ray.weights import WeightsId

SAMPLING = Sampling(responses=4, temperature=1.0, top_p=1.0, max_tokens=24, seed="test")
# Longer than a cache block, so that a prefix cache that was not reset would show.
PROMPTS = [
    Request(i, np.array([4 + (7 * i + j) % 10 for j in range(40)], np.int32)) for i in range(4)
]


def config(folder, zero_stage=1, ranks=1, engines=1, lora="null"):
    return settings.load(
        None,
        [
            f"folder={folder}",
            "model.dtype=float32",
            "data.max_prompt_length=48",
            "rollout.max_response_length=24",
            "learner.lr=1e-2",
            f"learner.zero_stage={zero_stage}",
            f"resources.learner.ranks={ranks}",
            f"resources.rollout.engines={engines}",
            f"learner.lora={lora}",
        ],
    )


def start_rollouts(settings_, model):
    rollouts = Rollouts(
        settings_,
        model,
        "gloo",
        RestartTracker(),
        Quarantine(3),
        Placement(plan(settings_)).rollout,
    )
    rollouts.wait_until_ready()
    return rollouts


def trajectories(groups):
    return concatenate(
        [
            (group.prompt_tokens, response.tokens, response.logprobs, float((-1) ** index))
            for group in groups
            for index, response in enumerate(group.responses)
        ]
    )


def largest_difference(rollouts, learner) -> float:
    """Between the log-probs that the engines report for what they sample now, and the learner's."""
    sampled = trajectories(rollouts.generate(PROMPTS, SAMPLING))
    return float(np.abs(np.array(learner.logprobs(sampled)) - sampled.logprobs).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tied", "zero_stage", "ranks", "engines", "lora"),
    [
        (False, 0, 1, 1, "null"),
        (False, 2, 2, 2, "null"),
        (True, 1, 1, 1, "null"),
        (True, 3, 2, 1, "null"),
        (False, 2, 2, 1, "{}"),
        (True, 3, 2, 1, "{rank: 4, target_modules: [q_proj, down_proj]}"),
    ],
)
def test_engine_and_learner_agree_after_every_publish(
    request, local_ray, tmp_path, tied, zero_stage, ranks, engines, lora
):
    model = str(request.getfixturevalue("tied_policy" if tied else "tiny_policy"))
    settings_ = config(tmp_path, zero_stage, ranks, engines, lora)
    learner = Learner(settings_, model, "gloo", 1, Placement(plan(settings_)).learner)
    rollouts = start_rollouts(settings_, model)
    learner.start(Storage.at(tmp_path), None)
    rollouts.publish(learner)
    assert largest_difference(rollouts, learner) < 1e-5
    for step in (1, 2):
        groups = rollouts.generate(PROMPTS, SAMPLING)
        assert {group.weights for group in groups} == {WeightsId(1, step - 1)}
        learner.train(trajectories(groups), step).result()
        # The policy has moved, so an engine with the old weights disagrees ...
        assert largest_difference(rollouts, learner) > 1e-2
        # ... until it is given the new ones.
        rollouts.publish(learner)
        assert largest_difference(rollouts, learner) < 1e-5


@pytest.mark.slow
def test_responses_depend_on_seed_and_prompt_and_not_on_the_engine(
    local_ray, tmp_path, tiny_policy
):
    def texts(engines: int) -> list[list[str]]:
        rollouts = start_rollouts(config(tmp_path, engines=engines), str(tiny_policy))
        return [[r.text for r in g.responses] for g in rollouts.generate(PROMPTS, SAMPLING)]

    one, two = texts(1), texts(2)
    assert one == two
    assert len({text for group in one for text in group}) > 8
