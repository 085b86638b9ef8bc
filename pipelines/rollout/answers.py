"""Evaluation of test prompts: generates and scores n responses to each, and computes metrics by data source. Training
and `python -m pipelines.evaluate` share this."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.environment import Scorers
from actors.requests import Sampling
from actors.rollout import Rollouts
from dps_ray.config import EvalSettings
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.errors import DPSError
from dps_ray.groups import ScoredGroup
from dps_ray.prompts.dataset import Prompt
from pipelines.rollout.accuracy import Estimate, estimate, measures
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.roll_out import roll_out

_ROUNDS = (
    8  # a chunk of prompts has this many times the responses that the engines decode at a time
)


class Answered(NamedTuple):
    """The result of one test prompt.

    accuracies: (n,) in [0, 1]; None if an engine or the reward function failed, which does not count as wrong
    tokens:     total tokens of the n responses
    truncated:  number of responses stopped by the length limit
    error:      the reason if there are no accuracies
    seconds:    time of generating and scoring: the time of the prompt's chunk divided by its number of prompts
    reward:     mean score of the n responses; None if there are no accuracies
    prompt:     the prompt's last message, for a person to read; may be left empty
    response:   the first response, for a person to read; may be left empty
    scores:     (n,), the score of each response; None if there are none, or an earlier version wrote the result
    content:    hash of the prompt's content (`PromptTable.contents`); None if an earlier version wrote the result
    """

    prompt_id: int
    data_source: str
    accuracies: tuple[float, ...] | None
    tokens: int = 0
    truncated: int = 0
    error: str | None = None
    seconds: float = 0.0
    reward: float | None = None
    prompt: str = ""
    response: str = ""
    scores: tuple[float, ...] | None = None
    content: int | None = None

    def without_texts(self) -> "Answered":
        """A copy without prompt and response, to save memory: a response may have some hundred thousand characters."""
        return self._replace(prompt="", response="")


def sampling_of(settings: EvalSettings | EvaluationConfig, max_tokens: int, seed: int) -> Sampling:
    """The sampling parameters for test prompts. The same settings and weights give the same responses in training and in
    `python -m pipelines.evaluate`."""
    return Sampling(
        responses=settings.samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=max_tokens,
        seed=f"{seed}/eval",
    )


def answer(
    pool: PromptPool,
    ids: NDArray[np.int64],
    sampling: Sampling,
    rollouts: Rollouts,
    scorers: Scorers,
    progress: Callable[[int, int, str], None],
) -> Iterator[list[Answered]]:
    """Generates and scores `sampling.responses` responses to each of these prompts. Yields the results in order, in
    chunks.

    progress: called with the number of finished prompts, the total, and the unit.
    """
    at_once = max(1, _ROUNDS * rollouts.slots // sampling.responses)
    done = count(1)

    def generated() -> None:
        progress(next(done), len(ids), "test prompts")

    for start in range(0, len(ids), at_once):
        began, chunk = time.monotonic(), ids[start : start + at_once]
        drawn = pool.drawn(chunk)
        groups = roll_out(
            drawn, sampling, rollouts, scorers, pool.encoder, generated=generated
        ).answers
        seconds = (time.monotonic() - began) / len(chunk)
        contents = pool.table.contents[pool.table.find(chunk)[0]].tolist()
        yield [
            _answered(prompt, group)._replace(seconds=seconds, content=content)
            for prompt, group, content in zip(drawn.prompts, groups, contents, strict=True)
        ]


def _answered(prompt: Prompt, group: ScoredGroup | DPSError) -> Answered:
    text = str(prompt.messages[-1]["content"])
    if not isinstance(group, ScoredGroup):
        return Answered(prompt.id, prompt.data_source, None, error=str(group), prompt=text)
    responses = group.group.responses
    return Answered(
        prompt.id,
        prompt.data_source,
        tuple(group.accuracies.tolist()),
        tokens=sum(response.generated for response in responses),
        truncated=sum(response.truncated for response in responses),
        reward=float(group.scores.mean()),
        prompt=text,
        response=responses[0].text,
        scores=tuple(group.scores.tolist()),
    )


def accuracies_by_source(answers: Iterable[Answered]) -> dict[str, NDArray[np.float64]]:
    """The accuracies (p, n) of the scored prompts by data source, in the order in which the sources first occur."""
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for answered in answers:
        if answered.accuracies is not None:
            rows[answered.data_source].append(answered.accuracies)
    return {source: np.array(accuracies) for source, accuracies in rows.items()}


def estimates(sets: Sequence[NDArray[np.float64]]) -> dict[str, Estimate]:
    """Estimates of mean@n and pass@m, averaged over test sets. Each set has (p, n) accuracies."""
    each = [measures(accuracies) for accuracies in sets]
    return {name: estimate([one[name] for one in each]) for name in (each[0] if each else ())}


def metrics_of(answers: Sequence[Answered]) -> dict[str, float]:
    """The metrics of an evaluation during training.

    `val-core/<source>/acc/mean@n` and `pass@n` exist for each data source, for `all` prompts and, if there are
    several data sources, for their `average`. `val-aux/<source>/acc/` has pass@m for smaller m and the ends of the
    95% intervals: `low@n` and `high@n` of mean@n, `pass_low@n` and `pass_high@n` of pass@n.
    `val-aux/all/reward/mean@n` is the mean score. Prompts whose rollout or reward function failed are left out of
    these and counted in `val-aux/failed`. `val-aux/truncated` counts truncated responses.
    """
    sources = accuracies_by_source(answers)
    everything = list(sources.values())
    rows = {source: [accuracies] for source, accuracies in sources.items()}
    if everything:
        rows["all"] = [np.concatenate(everything)]
    # If all prompts of a source failed, an average without it would be misleading.
    if len(sources) > 1 and len(sources) == len({answered.data_source for answered in answers}):
        rows["average"] = everything
    metrics: dict[str, float] = {}
    for row, sets in rows.items():
        n = sets[0].shape[1]
        for name, found in estimates(sets).items():
            kind = "core" if name.endswith(f"@{n}") else "aux"
            metrics[f"val-{kind}/{row}/acc/{name}"] = found.value
            if kind == "core":
                prefix = "" if name.startswith("mean") else "pass_"
                metrics[f"val-aux/{row}/acc/{prefix}low@{n}"] = found.low
                metrics[f"val-aux/{row}/acc/{prefix}high@{n}"] = found.high
    rewards = [answered.reward for answered in answers if answered.reward is not None]
    if rewards:
        metrics[f"val-aux/all/reward/mean@{everything[0].shape[1]}"] = float(np.mean(rewards))
    metrics["val-aux/failed"] = float(sum(answered.accuracies is None for answered in answers))
    metrics["val-aux/truncated"] = float(sum(answered.truncated for answered in answers))
    return metrics
