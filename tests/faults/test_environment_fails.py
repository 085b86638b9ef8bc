"""A call that an environment does not return from costs its own group alone; an actor that is lost costs nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.calls import wait
from actors.environment import Environments
from actors.health import Quarantine
from actors.managed_actor import RestartTracker
from cluster.placement import Placement, plan
from dps_ray.config import settings
from dps_ray.environments.process import Played
from dps_ray.errors import EngineError
from dps_ray.prompts.dataset import Prompt

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[1] / "dps_ray" / "turn_environments.py"
TURNS = 3


class Run:
    """Environments that play episodes of `TURNS` turns, and what they report."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        config = settings.load(
            None,
            [
                f"folder={folder}",
                f"environment.path={FILE}:Evil",
                f"environment.kwargs={{turns: {TURNS}}}",
                "environment.turn_timeout=1",
                "resources.verifiers.workers=2",
                *overrides,
            ],
        )
        self.told: list[str] = []
        self.recoveries = RestartTracker(self.told.append, limit=1)
        self.environments = Environments(
            config, self.recoveries, Quarantine(limit=2), Placement(plan(config)).verifiers
        )

    def play(self, responses: dict[int, str]) -> dict[int, list[Any]]:
        """What an episode of each prompt hears when it says the same in each turn: by prompt the messages, and in the end
        None or the kind of an error."""
        playing = self.environments.playing()
        heard: dict[int, list[Any]] = {prompt_id: [] for prompt_id in responses}
        for prompt_id in responses:
            playing.ask(prompt(prompt_id), 0, [])
        while playing.refs:
            wait(playing.refs, 1, 0.5)
            for call, found in playing.look():
                if not isinstance(found, Played):
                    heard[call.prompt_id].append(type(found).__name__)
                    continue
                messages = found.turn.messages
                heard[call.prompt_id].append(messages and messages[0]["content"])
                if messages is not None:
                    said = [responses[call.prompt_id]] * (call.responses + 1)
                    playing.ask(prompt(call.prompt_id), 0, said)
        return heard

    def end(self) -> None:
        self.environments.stop()


def prompt(prompt_id: int) -> Prompt:
    return Prompt(prompt_id, [{"role": "user", "content": "go"}], "mine", "3", {}, [])


def whole(said: str) -> list[Any]:
    return ["go", f"2 left after {said}", f"1 left after {said}", None]


@pytest.fixture
def start(local_ray: None, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    made = []

    def make(*overrides: str) -> Run:
        made.append(Run(tmp_path, *overrides))
        return made[-1]

    yield make
    for run in made:
        run.end()


def test_only_the_episode_of_a_call_that_fails_is_lost(start):
    run = start()
    evil = {1: "hang", 2: "exit", 3: "raise", 4: "nan", 5: "quit"}
    found = run.play({0: "a", **evil, 6: "b", 7: "c"})
    assert {i: found[i] for i in (0, 6, 7)} == {0: whole("a"), 6: whole("b"), 7: whole("c")}
    errors = {1: "TurnError", 2: "TurnError", 3: "EpisodeError", 4: "NonFiniteScoreError"}
    assert {i: found[i] for i in evil} == {
        i: ["go", kind] for i, kind in {**errors, 5: "TurnError"}.items()
    }
    assert run.told == []


@pytest.mark.parametrize(("action", "why"), [("die", "died: "), ("hang", "did not answer within ")])
def test_an_actor_that_is_lost_in_the_middle_of_an_episode_is_replaced_and_nothing_is_lost(
    start, failpoints, action, why
):
    armed = failpoints("environment.play", action, environment=1, responses=2)
    run = start("timeouts.score=2", "environment.max_turns=3")
    assert run.play(dict.fromkeys(range(8), "a")) == dict.fromkeys(range(8), whole("a"))
    assert armed.went_off
    lost, back = run.told
    assert lost.startswith(f"environment 1 {why}")
    assert back.startswith("environment 1 is back after")


def test_actors_that_die_as_they_start_are_replaced_and_given_up_in_the_end(start, failpoints):
    armed = [failpoints("environment.start", environment=0) for _ in range(3)]
    run = start("resources.verifiers.workers=1")
    with pytest.raises(EngineError, match="environment 0 was lost 2 times in a row"):
        run.play({0: "a"})
    assert [each.went_off for each in armed] == [True, True, False]
