"""A response that the reward function does not return on costs its own group alone; a verifier that is lost
costs nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.calls import wait
from actors.health import Quarantine
from actors.managed_actor import RestartTracker
from actors.verifier import Answer, Scoring, Verifiers
from cluster.placement import Placement, plan
from dps_ray.config import settings
from dps_ray.errors import EngineError, NonFiniteError, RewardError
from dps_ray.groups import Group, Response, ScoredGroup
from dps_ray.prompts.dataset import Prompt
from dps_ray.weights import START

pytestmark = pytest.mark.slow

EVIL = Path(__file__).parents[1] / "dps_ray" / "evil_rewards.py"


class Run:
    """Verifiers, and what they report."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        config = settings.load(
            None,
            [
                f"folder={folder}",
                f"data.reward={EVIL}:reward",
                "verifier.seconds=1",
                "verifier.memory_gib=0.5",
                *overrides,
            ],
        )
        self.told: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.quarantine = Quarantine(limit=2)
        self.recoveries = RestartTracker(self.told.append, self.records.append, limit=1)
        self.verifiers = Verifiers(
            config, self.recoveries, self.quarantine, Placement(plan(config)).verifiers
        )

    def score(self, *texts: list[str], first: int = 0) -> list[Answer]:
        """The answers to groups with these responses, of prompts `first` and following."""
        groups = [group(first + i, responses) for i, responses in enumerate(texts)]
        scoring = self.verifiers.scoring()
        for each in groups:
            scoring.add(prompt(each.prompt_id), each)
        return scoring.result()

    @property
    def failed_responses(self) -> float:
        return self.verifiers.metrics()["verifier/failed_responses"]

    def end(self) -> None:
        for member in self.verifiers.members:
            member.kill()


@pytest.fixture(scope="module")
def shared(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """For tests in which no verifier is lost; each has prompts of its own."""
    overrides = ("resources.verifiers.workers=2", "recovery.on_nonfinite=skip")
    run = Run(tmp_path_factory.mktemp("shared"), *overrides)
    yield run
    assert run.told == []
    run.end()


@pytest.fixture
def start(local_ray: None, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    made = []

    def make(*overrides: str) -> Run:
        made.append(Run(tmp_path, *overrides))
        return made[-1]

    yield make
    for run in made:
        run.end()


def prompt(prompt_id: int) -> Prompt:
    return Prompt(prompt_id, [], "sums", "3", {}, [])


def group(prompt_id: int, texts: list[str], first: int = 0) -> Group:
    tokens, logprobs = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
    responses = [Response(tokens, logprobs, text, False) for text in texts]
    return Group(prompt_id, tokens, responses, START, first=first)


def scored_so_far(scoring: Scoring, count: int) -> list[tuple[int, list[float]] | str]:
    """The next so many rounds that are scored: the rewards of their groups so far."""
    found: list[tuple[int, list[float]] | str] = []
    while len(found) < count:
        wait(scoring.calls, 1, 0.5)
        found += rewards([answer for _, answer in scoring.ready()])
    return found


def rewards(answers: list[Answer]) -> list[tuple[int, list[float]] | str]:
    """Prompt and rewards of each group, or the kind of its error."""
    return [
        (a.group.prompt_id, a.scores.tolist()) if isinstance(a, ScoredGroup) else type(a).__name__
        for a in answers
    ]


# --- responses ------------------------------------------------------------------------------------


def test_only_the_group_of_a_response_that_does_not_return_is_lost(shared):
    before, good = shared.failed_responses, ["a", "ab"]
    evil = [["ab", what] for what in ("hang:", "spin:", "allocate:", "segfault:", "leave:")]
    answers = shared.score(good, *evil, good, good, first=100)
    assert rewards(answers) == [
        (100, [1.0, 2.0]),
        *["ResponseError"] * 5,
        (106, [1.0, 2.0]),
        (107, [1.0, 2.0]),
    ]
    assert "Segmentation fault" in str(answers[4])
    assert shared.failed_responses == before + 5


def test_a_prompt_whose_responses_fail_again_and_again_is_set_aside(shared):
    quarantine, before = shared.quarantine, shared.failed_responses
    quarantine.failed(201)  # in an engine
    for failures in (1, 2):
        answers = shared.score(["leave:"], ["a"], first=200)
        assert rewards(answers) == ["ResponseError", (201, [1.0])]
        assert quarantine.failures[200] == failures
    assert 200 in quarantine.ids
    assert 201 not in quarantine.failures  # it got through engine and verifier
    assert shared.failed_responses == before + 2


def test_a_function_that_raises_sets_no_prompt_aside(shared):
    before = shared.failed_responses
    assert rewards(shared.score(["fail:"], ["a"], first=300)) == ["RewardError", (301, [1.0])]
    assert 300 not in shared.quarantine.failures
    assert shared.failed_responses == before


def test_a_reward_that_is_not_finite_costs_its_group_or_stops_the_run(shared, start):
    groups = ["a"], ["return_nan:"], ["a"]
    answers = shared.score(*groups, first=400)
    assert rewards(answers) == [(400, [1.0]), "NonFiniteRewardError", (402, [1.0])]
    with pytest.raises(NonFiniteError, match="prompt 401"):
        start("recovery.on_nonfinite=stop").score(*groups, first=400)


# --- verifiers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "why"), [("die", "died: "), ("hang", "did not answer within 3 s")]
)
def test_a_verifier_that_is_lost_is_replaced_and_nothing_is_lost_or_scored_twice(
    start, failpoints, action, why
):
    armed = failpoints("verifier.score", action, verifier=1)
    run = start("timeouts.score=3", "resources.verifiers.workers=2")
    answers = run.score(*[["a", "ab"]] * 7)
    assert armed.went_off
    assert rewards(answers) == [(i, [1.0, 2.0]) for i in range(7)]
    lost, back = run.told
    assert lost.startswith(f"verifier 1 {why}")
    assert back.startswith("verifier 1 is back after")
    assert [record["name"] for record in run.records] == ["verifier 1"]
    assert run.recoveries.metrics()["recovery/restarts/verifier"] == 1
    assert run.failed_responses == 0


def test_verifiers_that_die_as_they_start_are_replaced(start, failpoints):
    armed = [failpoints("verifier.start", verifier=index) for index in range(2)]
    run = start("resources.verifiers.workers=2")
    answers = run.score(*[["a", "ab"]] * 7)
    assert all(each.went_off for each in armed)
    assert rewards(answers) == [(i, [1.0, 2.0]) for i in range(7)]
    assert run.recoveries.metrics()["recovery/restarts/verifier"] == 2


# --- groups in rounds -----------------------------------------------------------------------------


def test_rounds_are_scored_as_they_come_and_joined_to_one_group(shared):
    groups = {500: ["a", "ab"], 501: ["ab", "ab"]}
    scoring = shared.verifiers.scoring()
    for prompt_id, texts in groups.items():
        scoring.add(prompt(prompt_id), group(prompt_id, texts))
    assert dict(scored_so_far(scoring, 2)) == {500: [1.0, 2.0], 501: [2.0, 2.0]}
    assert scoring.ready() == []
    scoring.add(prompt(501), group(501, ["a"], first=2))
    assert scored_so_far(scoring, 1) == [(501, [2.0, 2.0, 1.0])]
    answers = scoring.result()
    assert rewards(answers) == [(500, [1.0, 2.0]), (501, [2.0, 2.0, 1.0])]
    assert [len(each.group.responses) for each in answers] == [2, 3]
    assert [each.group.first for each in answers] == [0, 0]


def test_an_error_in_a_later_round_drops_the_group_and_counts_once(shared):
    before, scoring = shared.failed_responses, shared.verifiers.scoring()
    scoring.add(prompt(510), group(510, ["a", "ab"]))
    assert scored_so_far(scoring, 1) == [(510, [1.0, 2.0])]
    scoring.add(prompt(510), group(510, ["a", "leave:"], first=2))
    assert scored_so_far(scoring, 1) == ["ResponseError"]
    assert rewards(scoring.result()) == ["ResponseError"]
    assert shared.failed_responses == before + 1
    assert shared.quarantine.failures[510] == 1


@pytest.mark.parametrize("action", ["die", "hang"])
def test_a_verifier_that_is_lost_in_the_second_round_is_replaced_while_the_batch_goes_on(
    start, failpoints, action
):
    lost = failpoints("verifier.score", action, responses=3)
    run = start("timeouts.score=3")
    scoring = run.verifiers.scoring()
    for prompt_id in range(4):
        scoring.add(prompt(prompt_id), group(prompt_id, ["a", "ab"]))
    scored_so_far(scoring, 4)
    for prompt_id in range(4):
        scoring.add(prompt(prompt_id), group(prompt_id, ["a", "a", "a"], first=2))
    # By `ready` alone, as while engines work.
    assert sorted(scored_so_far(scoring, 4)) == [(i, [1.0, 2.0, 1.0, 1.0, 1.0]) for i in range(4)]
    assert lost.went_off
    assert rewards(scoring.result()) == [(i, [1.0, 2.0, 1.0, 1.0, 1.0]) for i in range(4)]
    assert run.recoveries.metrics()["recovery/restarts/verifier"] == 1
    assert run.failed_responses == 0


def test_a_verifier_that_is_lost_too_often_is_named(start, failpoints):
    for _ in range(2):
        failpoints("verifier.score", verifier=0)
    with pytest.raises(EngineError, match="verifier 0 was lost 2 times in a row"):
        start().score(["a"])


def test_responses_that_take_long_to_fail_do_not_make_their_verifier_look_lost(start):
    run = start("timeouts.score=4")
    answers = run.score(*[["hang:", "hang:"]] * 9)  # 9 s and more, if all were tried
    assert rewards(answers)[0] == "ResponseError"
    assert rewards(answers)[-1] == "RewardError"
    assert "lower verifier.seconds, or raise timeouts.score" in str(answers[-1])
    assert run.failed_responses < 9
    assert run.told == []


def test_a_function_that_cannot_be_loaded_is_an_error_of_its_own(start):
    with pytest.raises(RewardError, match="no function 'rewards'"):
        start(f"data.reward={EVIL}:rewards").score(["a"])
