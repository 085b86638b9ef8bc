"""Engine and learner see the same images, with every weight that is published."""

import numpy as np
import pytest

from actors.health import Quarantine
from actors.images import load_image_inputs
from actors.learner import Learner
from actors.managed_actor import RestartTracker
from actors.requests import Request, Sampling
from actors.rollout import Rollouts
from cluster.placement import Placement, plan
from dps_ray.config import settings
from dps_ray.durable import Storage
from dps_ray.objective.trajectories import concatenate, pack_images
from pipelines.rollout.processors import load_tokenizer
from tests.squares import square

SAMPLING = Sampling(responses=4, temperature=1.0, top_p=1.0, max_tokens=24, seed="test")
RED, BLUE = square("red", 140, 112), square("blue", 140, 112)


def prompt(policy, id_: int, *files: bytes) -> Request:
    """Longer than a block of the prefix cache, and the same text whatever is on the images."""
    inputs = load_image_inputs(policy, None)
    tokens = load_tokenizer(policy, None)(
        "<|vision_start|><|image_pad|><|vision_end|>" * len(files) + "What colour is it? " * 9
    )["input_ids"]
    counts = [len(inputs.patches([file]).values) // 4 for file in files]
    return Request(id_, inputs.expand(np.array(tokens, np.int32), counts), files)


def trajectories(groups, requests):
    sequences, images = [], []
    for group, request in zip(groups, requests, strict=True):
        for index, response in enumerate(group.responses):
            advantage = float((-1) ** index)
            sequences.append((group.prompt_tokens, response.tokens, response.logprobs, advantage))
            images.append(request.images)
    return concatenate(sequences)._replace(images=pack_images(images))


@pytest.mark.slow
def test_engine_and_learner_agree_about_images_after_every_publish(
    local_ray, tmp_path, tied_vision_policy
):
    policy = str(tied_vision_policy)
    config = settings.load(
        None,
        [
            f"folder={tmp_path}",
            "model.dtype=float32",
            "data.max_prompt_length=480",
            "rollout.max_response_length=24",
            "learner.lr=1e-2",
            "learner.zero_stage=2",
        ],
    )
    placement = Placement(plan(config))
    learner = Learner(config, policy, "gloo", 1, placement.learner)
    rollouts = Rollouts(config, policy, "gloo", RestartTracker(), Quarantine(3), placement.rollout)
    rollouts.wait_until_ready()
    learner.start(Storage.at(tmp_path), None)
    rollouts.publish(learner)

    # The first two differ in nothing but what the image shows.
    requests = [
        prompt(policy, 0, RED),
        prompt(policy, 1, BLUE),
        prompt(policy, 2, BLUE, square("green", 56, 84)),
        prompt(policy, 3),
    ]
    assert requests[0].tokens.tolist() == requests[1].tokens.tolist()
    assert len(requests[0].tokens) > 128

    def largest_difference() -> float:
        sampled = trajectories(rollouts.generate(requests, SAMPLING), requests)
        return float(np.abs(np.array(learner.logprobs(sampled)) - sampled.logprobs).max())

    for step in (1, 2):
        # Again: from what the prefix cache has by now.
        assert largest_difference() < 1e-5
        assert largest_difference() < 1e-5
        groups = rollouts.generate(requests, SAMPLING)
        sampled = trajectories(groups, requests)
        mistaken = trajectories(groups, [requests[1], requests[0], *requests[2:]])
        swapped = np.abs(np.array(learner.logprobs(mistaken)) - sampled.logprobs)
        assert swapped.max() > 1e-3, "with the other image the log-probabilities would be others"
        learner.train(sampled, step).result()
        assert largest_difference() > 1e-2
        rollouts.publish(learner)
    assert largest_difference() < 1e-5
