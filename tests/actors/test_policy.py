"""What the learner computes for sequences with images does not depend on how they are batched."""

import shutil

import numpy as np
import pytest
import torch

from actors.images import load_image_inputs
from actors.learner_setup import PolicySetup
from actors.policy import Policy
from dps_ray.config import settings
from dps_ray.errors import ModelError
from dps_ray.objective.trajectories import concatenate, pack_images
from tests.squares import square

IMAGES = [(square("red"),), (), (square("blue", 112, 84), square("green", 84, 140)), ()]


@pytest.fixture(scope="module")
def policy(vision_policy, tmp_path_factory):
    config = settings.load(
        None, [f"folder={tmp_path_factory.mktemp('run')}", "model.dtype=float32"]
    )
    return Policy(PolicySetup.of(config), str(vision_policy), torch.device("cpu"))


@pytest.fixture(scope="module")
def model(policy):
    return policy.load().eval()


@pytest.fixture(scope="module")
def trajectories(vision_policy):
    """Two prompts with images, two without; lengths differ."""
    inputs = load_image_inputs(str(vision_policy), None)
    rng = np.random.default_rng(0)
    sequences = []
    for files in IMAGES:
        text = [rng.integers(0, 200, 4 + len(files)), *([inputs.token, 7] for _ in files)]
        prompt = np.concatenate(text).astype(np.int32)
        grids = [inputs.patches([file]).grids.prod() // 4 for file in files]
        prompt = inputs.expand(prompt, grids)
        response = rng.integers(0, 200, 6).astype(np.int32)
        sequences.append((prompt, response, np.zeros(6, np.float32), 1.0))
    return concatenate(sequences)._replace(images=pack_images(IMAGES))


def logprobs(policy, model, trajectories, rows):
    """(rows, 6) of the responses."""
    inputs = policy.inputs(trajectories, np.array(rows))
    with torch.no_grad():
        values = policy.scores(model, inputs).logprobs
    return values[inputs.tensors.response[:, 1:] > 0].reshape(len(rows), 6).numpy()


def test_a_batch_gives_what_its_sequences_give_alone(policy, model, trajectories):
    together = logprobs(policy, model, trajectories, [0, 1, 2, 3])
    alone = [logprobs(policy, model, trajectories, [row])[0] for row in range(4)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    backwards = logprobs(policy, model, trajectories, [3, 2, 1, 0])
    np.testing.assert_allclose(backwards, together[::-1], atol=1e-5)


def test_an_image_is_cut_up_once_a_batch_as_far_as_there_is_room(
    policy, model, trajectories, monkeypatch
):
    cut = []
    patches = policy._images.patches
    monkeypatch.setattr(
        policy._images, "patches", lambda files: cut.append(len(files)) or patches(files)
    )
    again = trajectories._replace(images=pack_images(IMAGES))
    first = logprobs(policy, model, again, [0, 2])
    assert len(cut) == 3
    np.testing.assert_array_equal(logprobs(policy, model, again, [0, 2]), first)
    assert len(cut) == 3
    monkeypatch.setattr("actors.policy._ROOM", 0)
    logprobs(policy, model, trajectories._replace(images=pack_images(IMAGES)), [0, 0])
    assert len(cut) == 5


def test_the_image_decides(policy, model, trajectories):
    other = pack_images([(square("black"),), *IMAGES[1:]])
    shown = logprobs(policy, model, trajectories, [0, 2])
    changed = logprobs(policy, model, trajectories._replace(images=other), [0, 2])
    assert np.abs(shown[0] - changed[0]).max() > 1e-3
    np.testing.assert_allclose(shown[1], changed[1], atol=1e-5)


def test_a_batch_without_images_still_passes_through_the_vision_tower(policy, trajectories):
    model = policy.load()
    for rows in ([], [1, 3]):
        inputs = policy.inputs(trajectories, np.array(rows, dtype=np.int64))
        policy.scores(model, inputs).logprobs.sum().backward()
        gradients = [p.grad for p in model.model.visual.parameters()]
        assert all(g is not None and not g.any() for g in gradients)


def test_no_response_has_a_token_that_stands_for_an_image(policy, model, trajectories):
    never = load_image_inputs(str(policy._path), None).never_sampled
    inputs = policy.inputs(trajectories, np.array([0, 1]))
    of_videos = inputs.tensors.tokens.clone()
    of_videos[inputs.tensors.response > 0] = never[1]
    inputs = inputs._replace(tensors=inputs.tensors._replace(tokens=of_videos))
    with torch.no_grad():
        scores = policy.scores(model, inputs)
    response = inputs.tensors.response[:, 1:] > 0
    assert (scores.logprobs[response].exp() == 0).all()
    assert torch.isfinite(scores.entropy).all()


def test_a_frozen_vision_tower_has_nothing_to_train(policy):
    frozen = policy.load(freeze_vision_tower=True)
    trained = {name for name, p in frozen.named_parameters() if p.requires_grad}
    assert trained
    assert not any("visual" in name for name in trained)
    assert all(p.requires_grad for p in policy.load().parameters())


def test_the_tokens_of_an_image_follow_from_its_size(vision_policy):
    inputs = load_image_inputs(str(vision_policy), max_pixels=40 * 28 * 28)
    for width, height in [(1, 1), (28, 28), (56, 140), (300, 100), (1000, 1000), (29, 700)]:
        patches = inputs.patches([square("red", width, height)])
        assert inputs.tokens(height, width) == len(patches.values) // 4 <= 40
        assert patches.grids.prod() == len(patches.values)


def test_the_blank_image_is_one_token_of_patches_as_real_ones_are(vision_policy):
    inputs = load_image_inputs(str(vision_policy), None)
    blank, real = inputs.blank(), inputs.patches([square("red")])
    assert blank.values.shape == (4, real.values.shape[1])
    assert blank.grids.tolist() == [[1, 2, 2]]


def test_a_model_that_does_not_say_how_images_are_cut_is_refused(vision_policy, tmp_path):
    shutil.copytree(vision_policy, tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(
        ModelError, match=r"model takes images and has no preprocessor_config\.json"
    ):
        load_image_inputs(str(tmp_path / "model"), None)


def test_a_language_model_is_shown_no_images(tiny_policy):
    assert load_image_inputs(str(tiny_policy), None) is None
