"""A whole batch through the verifiers of a run."""

import numpy as np
import pytest

from actors.health import Quarantine
from actors.managed_actor import RestartTracker
from actors.verifier import Verifiers
from cluster.placement import Placement, plan
from dps_ray.config import settings
from dps_ray.errors import ResponseError
from dps_ray.groups import Group, Response, ScoredGroup
from dps_ray.prompts.dataset import Prompt
from dps_ray.weights import START
from tests.dps_ray.hostile_responses import ENDLESS, WRONG

pytestmark = pytest.mark.slow

COUNTDOWN = {"target": 24, "numbers": [4, 6, 1]}
# By data source: ground truth, a right answer, a wrong one.
TASKS = {
    "countdown": (COUNTDOWN, "<answer>4 * 6 * 1</answer>", "<answer>4 + 6 + 1</answer>"),
    "math": (r"\frac{1}{2}", r"\boxed{\frac{17}{34}}", r"\boxed{\frac{17}{33}}"),
    "geometry": (r"\sqrt{34}", r"\boxed{5.83}", r"\boxed{5.9}"),
    "arithmetic": ("1+2=3;", "1+2=3;", "1+2=4;"),
}
HOSTILE = 7  # the group of every so many prompts holds a hostile answer among wrong ones


@pytest.fixture
def verifiers(local_ray, tmp_path):
    config = settings.load(
        None,
        [
            f"folder={tmp_path}",
            "resources.verifiers.workers=2",
            "verifier.cpu_seconds=3",
            "verifier.seconds=120",
        ],
    )
    told: list[str] = []
    started = Verifiers(
        config,
        RestartTracker(told.append, lambda record: None, limit=1),
        Quarantine(limit=2),
        Placement(plan(config)).verifiers,
    )
    yield started
    assert told == []
    for member in started.members:
        member.kill()


def group(number: int) -> tuple[Prompt, Group, list[float] | None]:
    """A prompt, eight responses, and the accuracies they should get; None for a group that fails."""
    source = list(TASKS)[number % len(TASKS)]
    truth, right, wrong = TASKS[source]
    texts, accuracies = [right, wrong] * 4, [1.0, 0.0] * 4
    if number % HOSTILE == 0:
        hostile = list(WRONG.values())[number // HOSTILE % len(WRONG)][:100_000]
        texts = [wrong, rf"\boxed{{{hostile}}} <answer>{hostile}</answer>"] * 4
        accuracies = [0.0] * 8
    if number == 101:
        source, truth, texts = (
            "math",
            "x=5",
            [rf"\boxed{{{text}}}" for text in ENDLESS.values()] * 8,
        )
    tokens, logprobs = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
    responses = [Response(tokens, logprobs, text, False) for text in texts]
    prompt = Prompt(number, [], source, truth, {}, [])
    return prompt, Group(number, tokens, responses, START), None if number == 101 else accuracies


def test_2048_responses_some_of_them_hostile_are_scored_in_parallel(verifiers):
    groups = [group(number) for number in range(256)]
    scoring = verifiers.scoring()
    for prompt, responses, _ in groups:
        scoring.add(prompt, responses)
    failed = []
    for (prompt, _, accuracies), answer in zip(groups, scoring.result(), strict=True):
        if isinstance(answer, ScoredGroup):
            assert answer.accuracies.tolist() == accuracies, prompt
        else:
            failed.append((prompt.id, type(answer)))
    assert failed == [(101, ResponseError)]
    assert verifiers.metrics()["verifier/failed_responses"] == 1
