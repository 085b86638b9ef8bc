"""Tokens that the policy did not write have no part in its loss."""

import numpy as np
import torch

from dps_ray.config import ObjectiveSettings
from dps_ray.objective.grpo import grpo_loss, to_tensors
from dps_ray.objective.trajectories import Trajectories, concatenate, pad

WRITTEN = [[True, True, False, False, True], [True, False, True]]
ADVANTAGES = [1.5, -0.5]


def episodes(written: list[list[bool]] | None) -> Trajectories:
    rng = np.random.default_rng(0)
    whole = concatenate(
        [
            (
                rng.integers(0, 6, 2).astype(np.int32),
                rng.integers(0, 6, len(mask)).astype(np.int32),
                np.full(len(mask), -1.5, np.float32),
                advantage,
            )
            for mask, advantage in zip(WRITTEN, ADVANTAGES, strict=True)
        ]
    )
    return whole if written is None else whole._replace(trained=np.concatenate(written))


def gradient(trajectories: Trajectories, aggregation: str = "token-mean") -> torch.Tensor:
    """Of the loss of the first update, for logits that are free at each position."""
    batch = to_tensors(pad(trajectories, np.arange(2)), torch.device("cpu"))
    logits = torch.zeros((*batch.tokens.shape, 6), requires_grad=True)
    loss, _ = grpo_loss(
        logits,
        None,
        batch,
        settings=ObjectiveSettings(importance_cap=None, aggregation=aggregation),
        temperature=1.0,
        minibatch_tokens=int(trajectories.trained_lengths.sum()),
        minibatch_sequences=2,
        first=False,
    )
    loss.backward()
    return logits.grad


def by_hand() -> np.ndarray:
    """The gradient of -A * ratio over the five written tokens, each with weight 1/5. The policy is uniform over six tokens, and
    a token had the log-probability -1.5 when it was sampled."""
    trajectories = episodes(WRITTEN)
    found = np.zeros((2, 7, 6))
    ratio, start = (1 / 6) / np.exp(-1.5), 0
    for row, mask in enumerate(WRITTEN):
        tokens = trajectories.tokens[start : start + 2 + len(mask)]
        start += len(tokens)
        for place, written in enumerate(mask, 2):
            if written:
                slope = -np.full(6, 1 / 6)
                slope[tokens[place]] += 1
                found[row, place - 1] = -ADVANTAGES[row] * ratio * slope / 5
    return found


def test_the_gradient_is_the_one_computed_by_hand_over_the_written_tokens():
    # 1/6 over exp(-1.5) is 0.75: clipped for the negative advantage, whose gradient is then zero.
    expected = by_hand()
    expected[1] = 0
    np.testing.assert_allclose(gradient(episodes(WRITTEN)), expected, atol=1e-7)


def test_what_was_read_changes_no_weight_of_what_was_written():
    found = gradient(episodes(WRITTEN), "sequence-mean")
    places = found.abs().sum(-1) > 0
    assert places[0].tolist() == [False, True, True, False, False, True, False]
    sizes = found[0].abs().sum(-1)[places[0]]
    torch.testing.assert_close(sizes, sizes[:1].expand(3))


def test_a_batch_counts_its_trained_tokens():
    assert episodes(WRITTEN).trained_lengths.tolist() == [3, 2]
    assert episodes(None).trained_lengths.tolist() == [5, 3]
    padded = pad(episodes(WRITTEN), np.array([1, 0]))
    assert padded.response.tolist() == [[0, 0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1]]
