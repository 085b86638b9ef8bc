"""The critic's loss: half the squared error, and no gradient where a value has moved far enough."""

import pytest
import torch

from dps_ray.objective.value_loss import value_loss


def loss_and_gradient(value, before, returned, clip=0.5):
    """Of one token."""
    values = torch.tensor([[value]], requires_grad=True)
    loss, clipped = value_loss(values, torch.tensor([[before]]), torch.tensor([[returned]]), clip)
    loss.sum().backward()
    return loss.item(), values.grad.item(), clipped.item()


@pytest.mark.parametrize(
    ("value", "before", "returned", "expected"),
    [
        (0.2, 0.0, 1.0, (0.32, -0.8, False)),  # within the clip: (0.2 - 1)^2 / 2
        (0.7, 0.0, 1.0, (0.125, 0.0, True)),  # moved far enough: (0.5 - 1)^2 / 2
        (-0.7, 0.0, 1.0, (1.445, -1.7, False)),  # moved the wrong way, which it can take back
        (1.2, 0.0, 0.6, (0.18, 0.6, False)),  # gone past the return: only that is an error
    ],
)
def test_the_loss_of_a_token_by_hand(value, before, returned, expected):
    assert loss_and_gradient(value, before, returned) == pytest.approx(expected, abs=1e-6)


def test_a_wide_clip_is_none():
    generator = torch.Generator().manual_seed(0)
    values, before, returns = torch.randn(3, 5, 7, generator=generator)
    loss, clipped = value_loss(values, before, returns, clip=100.0)
    torch.testing.assert_close(loss, 0.5 * (values - returns).square())
    assert not clipped.any()
