"""The groups of a batch that the learner is given: their advantages, which of them train, and their flat arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray import PARTIAL
from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.config import Config, ObjectiveSettings
from dps_ray.groups import ScoredGroup
from dps_ray.objective.advantages import carries_gradient, group_advantages
from dps_ray.objective.belief_baseline import LEAST_ADVANTAGE, belief_advantages
from dps_ray.objective.trajectories import Trajectories, concatenate, pack_images


class TrainingGroup(NamedTuple):
    """A prompt and its responses, with their advantages."""

    prompt_id: int
    prompt_tokens: NDArray[np.int32]  # (p,)
    tokens: list[NDArray[np.int32]]  # of each of the n responses
    logprobs: list[NDArray[np.float32]]  # of the same tokens, under the policy that sampled them
    advantages: NDArray[np.float64]  # (n,)
    partial: bool
    images: tuple[bytes, ...] = ()
    written: list[NDArray[np.bool_]] | None = None  # whether the policy wrote each token; None: all

    @classmethod
    def of(cls, scored: ScoredGroup, advantages: NDArray[np.float64]) -> "TrainingGroup":
        """Returns what the learner needs of a scored group."""
        group = scored.group
        written = [response.written for response in group.responses if response.written is not None]
        return cls(
            group.prompt_id,
            group.prompt_tokens,
            [response.tokens for response in group.responses],
            [response.logprobs for response in group.responses],
            advantages,
            scored.state == PARTIAL,
            scored.images,
            written or None,
        )


def training_groups(
    scored: Sequence[ScoredGroup], predicted: NDArray[np.float64], config: Config
) -> list[TrainingGroup]:
    """Returns the groups to train on, in the order given and at most `loop.batch_size`.

    These are the groups with advantages and, with `loop.filter_groups` or `objective.train_on=partial`, only the partial
    ones.

    Args:
        predicted: (n, 3), the states predicted for each group before it was rolled out; NaN where nothing was.
    """
    only_partial = config.loop.filter_groups or config.objective.train_on == "partial"
    beliefs: list[tuple[float, float] | None] = [None] * len(scored)
    if config.objective.baseline == "belief":
        rates = BetaRates.of_predicted(predicted, config.rollout.group_size)
        columns = (rates.a.tolist(), rates.b.tolist(), rates.known.tolist())
        beliefs = [(a, b) if known else None for a, b, known in zip(*columns, strict=True)]
    found: list[TrainingGroup] = []
    for each, belief in zip(scored, beliefs, strict=True):
        if only_partial and each.state != PARTIAL:
            continue
        advantages = _advantages(each, belief, config)
        if advantages is not None:
            found.append(TrainingGroup.of(each, advantages))
    return found[: config.loop.batch_size]


def _advantages(
    scored: ScoredGroup, belief: tuple[float, float] | None, config: Config
) -> NDArray[np.float64] | None:
    """The advantages of a group, (n,); None if it has nothing to teach.

    Args:
        belief: the Beta distribution of the prompt's solve rate; None: the group's own mean is the baseline.
    """
    full, norm_by_std = config.rollout.group_size, config.objective.norm_by_std
    if belief is None:
        if not carries_gradient(scored.scores):
            return None
        return group_advantages(scored.scores, norm_by_std=norm_by_std, full=full)
    advantages = belief_advantages(
        scored.scores,
        scored.accuracies == 1,
        *belief,
        full=full,
        rounds=scored.group.rounds,
        low=config.states.low,
        high=config.states.high,
        norm_by_std=norm_by_std,
    )
    return advantages if np.abs(advantages).max() >= LEAST_ADVANTAGE else None


def to_trajectories(
    groups: Sequence[TrainingGroup],
    objective: ObjectiveSettings,
    batch_size: int,
    others: Sequence[int] = (),
) -> Trajectories:
    """The groups' responses with their advantages, for the learner. Empty responses are left out.

    The learner averages over the responses that it is given. The policy loss is linear in the advantages, so with
    `normalize_by=batch_size` they are scaled by `share_of_batch`.

    Args:
        others: sizes of the groups of the same batch that do not train.
    """
    share = 1.0
    if objective.normalize_by == "batch_size":
        share = share_of_batch([len(group.advantages) for group in groups], others, batch_size)
    sequences, images, trained = [], [], []
    for group in groups:
        scaled = share * group.advantages
        written = group.written or [np.ones(len(tokens), np.bool_) for tokens in group.tokens]
        each = zip(group.tokens, group.logprobs, scaled, written, strict=True)
        for tokens, logprobs, advantage, mask in each:
            if len(tokens):
                sequences.append((group.prompt_tokens, tokens, logprobs, float(advantage)))
                images.append(group.images)
                trained.append(mask)
    found = concatenate(sequences)._replace(images=pack_images(images))
    flat = np.concatenate(trained)
    return found if flat.all() else found._replace(trained=flat)


def share_of_batch(sizes: Sequence[int], others: Sequence[int], batch_size: int) -> float:
    """Returns the share of responses that train in a batch of `batch_size` groups.

    In verl, groups without advantages are part of the batch, and their responses count in the mean. Each group that is
    missing from `sizes` counts as one of the mean size of `others`, or of `sizes` if there are no others. If all groups
    have the same size, the share is len(sizes) / batch_size.

    Args:
        sizes: sizes of the groups that train, in responses.
        others: sizes of groups of the same batch that do not train.
    """
    missing = max(batch_size - len(sizes), 0)
    without = others or sizes
    return sum(sizes) * len(without) / (sum(sizes) * len(without) + missing * sum(without))
