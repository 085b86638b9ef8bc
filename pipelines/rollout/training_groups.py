"""The groups of a batch that the learner is given: their advantages, which of them train, and their flat arrays."""

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray import PARTIAL
from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.config import Config, ObjectiveSettings
from dps_ray.groups import ScoredGroup
from dps_ray.objective.advantages import (
    carries_gradient,
    group_advantages,
    leave_one_out_advantages,
    over_batch,
)
from dps_ray.objective.belief_baseline import LEAST_ADVANTAGE, belief_advantages
from dps_ray.objective.overlong import overlong_penalties
from dps_ray.objective.settings import EVERY_GROUP_TRAINS
from dps_ray.objective.trajectories import Trajectories, concatenate, pack_images


class TrainingGroup(NamedTuple):
    """A prompt and those of its responses that train, with their advantages."""

    prompt_id: int
    prompt_tokens: NDArray[np.int32]  # (p,)
    tokens: list[NDArray[np.int32]]  # of each of the n responses
    logprobs: list[NDArray[np.float32]]  # of the same tokens, under the policy that sampled them
    advantages: NDArray[np.float64]  # (n,); with ppo the scores, from which the learner makes them
    partial: bool
    images: tuple[bytes, ...] = ()
    written: list[NDArray[np.bool_]] | None = None  # whether the policy wrote each token; None: all

    @classmethod
    def of(
        cls, scored: ScoredGroup, advantages: NDArray[np.float64], with_truncated: bool = True
    ) -> "TrainingGroup":
        """Returns what the learner needs of a scored group.

        Args:
            advantages: of all its responses.
            with_truncated: whether truncated responses train.
        """
        group = scored.group
        kept = [with_truncated or not response.truncated for response in group.responses]
        responses = list(compress(group.responses, kept))
        written = [response.written for response in responses if response.written is not None]
        return cls(
            group.prompt_id,
            group.prompt_tokens,
            [response.tokens for response in responses],
            [response.logprobs for response in responses],
            advantages[kept],
            scored.state == PARTIAL,
            scored.images,
            written or None,
        )


def training_groups(
    scored: Sequence[ScoredGroup], predicted: NDArray[np.float64], config: Config
) -> list[TrainingGroup]:
    """Returns the groups to train on, in the order given and at most `loop.batch_size`.

    These are the groups with advantages and, with `loop.filter_groups` or `objective.train_on=partial`, only the partial
    ones. What the advantages take from the batch, its mean or deviation, is of these groups.

    Args:
        predicted: (n, 3), the states predicted for each group before it was rolled out; NaN where nothing was.
    """
    objective = config.objective
    only_partial = config.loop.filter_groups or objective.train_on == "partial"
    beliefs: list[tuple[float, float] | None] = [None] * len(scored)
    if objective.baseline == "belief":
        rates = BetaRates.of_predicted(predicted, config.rollout.group_size)
        columns = (rates.a.tolist(), rates.b.tolist(), rates.known.tolist())
        beliefs = [(a, b) if known else None for a, b, known in zip(*columns, strict=True)]
    found: list[tuple[ScoredGroup, NDArray[np.float64]]] = []
    for each, belief in zip(scored, beliefs, strict=True):
        if only_partial and each.state != PARTIAL:
            continue
        advantages = _advantages(each, shaped_scores(each, config), belief, config)
        if advantages is not None:
            found.append((each, advantages))
    found = _over_batch(found[: config.loop.batch_size], objective)
    groups = [
        TrainingGroup.of(each, advantages, with_truncated=not objective.overlong_filter)
        for each, advantages in found
    ]
    return [group for group in groups if group.tokens]


def shaped_scores(scored: ScoredGroup, config: Config) -> NDArray[np.float64]:
    """Returns the scores from which advantages are computed: less for responses near the limit (`objective.overlong_buffer`).
    Solve states do not follow from them."""
    objective = config.objective
    if objective.overlong_buffer == 0:
        return scored.scores
    return scored.scores + overlong_penalties(
        np.array([len(response.tokens) for response in scored.group.responses]),
        limit=config.rollout.max_response_length,
        buffer=objective.overlong_buffer,
        penalty=objective.overlong_penalty,
    )


def _advantages(
    scored: ScoredGroup,
    scores: NDArray[np.float64],
    belief: tuple[float, float] | None,
    config: Config,
) -> NDArray[np.float64] | None:
    """The advantages of a group before the batch is known, (n,); None if the group has nothing to teach.

    Args:
        scores: (n,), shaped.
        belief: the Beta distribution of the prompt's solve rate; None: the group's own mean is the baseline.
    """
    objective, rounds = config.objective, scored.group.rounds
    full, norm_by_std = config.rollout.group_size, objective.scale == "group"
    if objective.baseline in EVERY_GROUP_TRAINS:
        return scores
    if belief is None:
        if not carries_gradient(scores):
            return None
        if objective.baseline == "leave_one_out":
            return leave_one_out_advantages(scores, rounds)
        return group_advantages(scores, norm_by_std=norm_by_std, full=full)
    advantages = belief_advantages(
        scores,
        scored.accuracies == 1,
        *belief,
        full=full,
        rounds=rounds,
        low=config.states.low,
        high=config.states.high,
        norm_by_std=norm_by_std,
    )
    return advantages if np.abs(advantages).max() >= LEAST_ADVANTAGE else None


def _over_batch(
    found: Sequence[tuple[ScoredGroup, NDArray[np.float64]]], objective: ObjectiveSettings
) -> list[tuple[ScoredGroup, NDArray[np.float64]]]:
    """The groups with what their advantages take from the batch. None is left if all the batch has the same score.

    With a critic they stay scores: advantages are computed for each token where the values are.
    """
    centre, divide = objective.baseline == "batch", objective.scale == "batch"
    if not found or objective.baseline == "critic" or not (centre or divide):
        return list(found)
    groups, differences = zip(*found, strict=True)
    if centre and not carries_gradient(np.concatenate(differences)):
        return []
    return list(zip(groups, over_batch(differences, centre=centre, divide=divide), strict=True))


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
    if not flat.all():
        found = found._replace(trained=flat)
    if objective.has_critic:
        nothing = np.zeros_like(found.advantages)
        found = found._replace(scores=found.advantages, advantages=nothing)
    return found


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
