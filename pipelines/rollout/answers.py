"""Test prompts are answered n times each, and what they came to is counted by data source: what training and
`python -m pipelines.evaluate` share."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.requests import Sampling
from actors.rollout import Rollouts
from actors.verifier import Verifiers
from dps_ray.config import EvalSettings
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.errors import DPSError
from dps_ray.groups import ScoredGroup
from dps_ray.prompts.dataset import Prompt
from pipelines.rollout.accuracy import Estimate, estimate, measures
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.roll_out import roll_out

_ROUNDS = 8  # of all that the engines decode at the same time, before what is done is handed on


class Answered(NamedTuple):
    """What a test prompt came to.

    accuracies: (n,) in [0, 1]; None when an engine or the reward function failed on it, which is no wrong answer
    tokens:     of the n responses together
    truncated:  of the n, those stopped by the length limit
    error:      why there are no accuracies
    seconds:    of generating and scoring, its share of what it and those beside it took
    reward:     mean score of the n responses; None likewise
    prompt:     its last message, and
    response:   the first of the n, for a person to read; empty where nobody will
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

    def without_texts(self) -> "Answered":
        """To be counted: a response may be some hundred thousand characters."""
        return self._replace(prompt="", response="")


def sampling_of(settings: EvalSettings | EvaluationConfig, max_tokens: int, seed: int) -> Sampling:
    """How test prompts are answered; with the same settings and weights alike in training and after it."""
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
    verifiers: Verifiers,
    progress: Callable[[int, int, str], None],
) -> Iterator[list[Answered]]:
    """Have these prompts answered `sampling.responses` times; some at a time, in their order.

    progress: told of prompts generated, prompts in all, and what they are.
    """
    at_once = max(1, _ROUNDS * rollouts.slots // sampling.responses)
    done = count(1)

    def generated() -> None:
        progress(next(done), len(ids), "test prompts")

    for start in range(0, len(ids), at_once):
        began, chunk = time.monotonic(), ids[start : start + at_once]
        groups = roll_out(pool, chunk, sampling, rollouts, verifiers, generated=generated)
        seconds = (time.monotonic() - began) / len(chunk)
        yield [
            _answered(prompt, group)._replace(seconds=seconds)
            for prompt, group in zip(pool.prompts(chunk), groups, strict=True)
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
        tokens=sum(len(response.tokens) for response in responses),
        truncated=sum(response.truncated for response in responses),
        reward=float(group.scores.mean()),
        prompt=text,
        response=responses[0].text,
    )


def accuracies_by_source(answers: Iterable[Answered]) -> dict[str, NDArray[np.float64]]:
    """(p, n) accuracies of the prompts that were scored, for each data source in the order they come."""
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for answered in answers:
        if answered.accuracies is not None:
            rows[answered.data_source].append(answered.accuracies)
    return {source: np.array(accuracies) for source, accuracies in rows.items()}


def estimates(sets: Sequence[NDArray[np.float64]]) -> dict[str, Estimate]:
    """mean@n and pass@m, averaged over these test sets of (p, n) accuracies each."""
    each = [measures(accuracies) for accuracies in sets]
    return {name: estimate([one[name] for one in each]) for name in (each[0] if each else ())}


def metrics_of(answers: Sequence[Answered]) -> dict[str, float]:
    """An evaluation during training, as metrics.

    `val-core/<source>/acc/mean@n` and `pass@n` for each data source, for `all` prompts, and for the `average` of
    the data sources where there are several; `val-aux/<source>/acc/` has pass@m for smaller m, and the ends of
    the 95% intervals: `low@n` and `high@n` of mean@n, `pass_low@n` and `pass_high@n` of pass@n.
    `val-aux/all/reward/mean@n` is the mean score. A prompt whose rollout or reward function failed is in none of
    them, and counted in `val-aux/failed`; `val-aux/truncated` counts responses.
    """
    sources = accuracies_by_source(answers)
    everything = list(sources.values())
    rows = {source: [accuracies] for source, accuracies in sources.items()}
    if everything:
        rows["all"] = [np.concatenate(everything)]
    # Without one of the sources the average would be of something else.
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
