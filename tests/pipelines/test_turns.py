"""How episodes go on and end, with real environments; what engines answer is given."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.calls import wait
from actors.environment import Environments
from actors.health import Quarantine
from actors.managed_actor import RestartTracker
from actors.requests import Request, Sampling
from cluster.placement import Placement, plan
from dps_ray.config import Config, settings
from dps_ray.errors import DataError, EngineError, EpisodeError, NonFiniteError
from dps_ray.groups import Group, Response, ScoredGroup
from dps_ray.prompts.dataset import Prompt
from dps_ray.weights import START, WeightsId
from pipelines.data.warm_start import build_tokenizer
from pipelines.rollout.encoding import Encoder
from pipelines.rollout.training_groups import TrainingGroup, to_trajectories
from pipelines.rollout.turns import Turns

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[1] / "dps_ray" / "turn_environments.py"
SAMPLING = Sampling(responses=2, temperature=1.0, top_p=1.0, max_tokens=200, seed="test")
TOKENIZER = build_tokenizer()
QUESTION = "6+6="


class Batch:
    """The episodes of a batch, with all requests that became due."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.requests: list[Request] = []

    def due(self) -> list[Request]:
        """The requests that are due once all environments have answered."""
        new: list[Request] = []
        while self.turns.calls():
            wait(self.turns.calls(), 1, 0.5)
            new += self.turns.take()
        self.requests += new
        return sorted(new, key=lambda request: request.key)

    def answer(
        self, request: Request, text: str = "2", weights: WeightsId = START, cut: bool = False
    ) -> None:
        tokens = np.array([*encoded(text), *([] if cut else [TOKENIZER.eos_token_id])], np.int32)
        logprobs = np.full(len(tokens), -0.5, np.float32)
        response = Response(tokens, logprobs, text, cut)
        self.turns.generated(
            Group(request.prompt_id, request.tokens, [response], weights, request.first)._replace(
                turn=request.turn
            )
        )


def encoded(text: str) -> list[int]:
    return TOKENIZER([text], add_special_tokens=False)["input_ids"][0]


def prompt(prompt_id: int = 1, turns: int = 2, question: str = QUESTION) -> Prompt:
    return Prompt(prompt_id, [{"role": "user", "content": question}], "mine", str(turns), {}, [])


@pytest.fixture
def begin(local_ray: None, tmp_path: Path) -> Iterator[Callable[..., Batch]]:
    started = []

    def make(*prompts: Prompt, name: str = "Countdown", options: tuple[str, ...] = ()) -> Batch:
        config = settings.load(
            None, [f"folder={tmp_path}", f"environment.path={FILE}:{name}", *options]
        )
        place = Placement(plan(config)).verifiers
        environments = Environments(config, RestartTracker(print), Quarantine(2), place)
        started.append(environments)
        encoder = Encoder(TOKENIZER, None, "the model", str)
        return Batch(Turns(prompts, SAMPLING, encoder, environments, lambda: None))

    yield make
    for environments in started:
        environments.stop()


def test_each_turn_continues_the_tokens_that_were_sampled(begin):
    batch = begin(prompt())
    one, two = batch.due()
    assert [one.key, two.key] == [(1, 0, 0), (1, 1, 0)]
    assert one.tokens.tolist() == encoded(QUESTION)
    assert (one.responses, one.max_tokens) == (1, 200)
    batch.answer(one, "2")
    (further,) = batch.due()
    between = encoded("1 left after 2")
    assert further.key == (1, 0, 1)
    assert further.tokens.tolist() == [
        *encoded(QUESTION),
        *encoded("2"),
        TOKENIZER.eos_token_id,
        *between,
    ]
    assert further.max_tokens == 200 - 2 - len(between)
    batch.answer(two, "3")
    for request in (further, *batch.due()):
        batch.answer(request, "4", WeightsId(1, 1))
    assert batch.due() == []
    (found,) = batch.turns.answers()
    assert isinstance(found, ScoredGroup)
    assert (found.scores.tolist(), found.accuracies.tolist()) == ([1.0, 1.0], [1.0, 1.0])
    assert (found.successes, found.state) == (2, 2)
    assert found.group.weights == START
    first = found.group.responses[0]
    assert first.tokens.tolist() == [*further.tokens[4:], *encoded("4"), TOKENIZER.eos_token_id]
    assert first.written is not None
    assert first.written.tolist() == [True] * 2 + [False] * len(between) + [True] * 2
    assert (first.text, first.turns, first.truncated) == ("2\n1 left after 2\n4", 2, False)
    assert batch.turns.responses() == 2

    training = TrainingGroup.of(found, np.array([1.0, -1.0]))
    trajectories = to_trajectories([training], Config().objective, 1)
    assert trajectories.trained is not None
    assert trajectories.trained_lengths.tolist() == [4, 4]


def test_an_episode_ends_at_the_limit_on_turns_as_truncated(begin):
    batch = begin(prompt(turns=5), options=("environment.max_turns=2",))
    for _ in range(2):
        for request in batch.due():
            batch.answer(request)
    assert batch.due() == []
    (found,) = batch.turns.answers()
    assert [(r.turns, r.truncated) for r in found.group.responses] == [(2, True)] * 2
    assert found.scores.tolist() == [1.0, 1.0]
    assert found.accuracies.tolist() == [0.0, 0.0]


def test_a_response_that_the_limit_has_cut_is_the_last_and_is_answered(begin):
    batch = begin(prompt(turns=2), prompt(2, turns=1))
    for request in batch.due():
        batch.answer(request, cut=True)
    assert batch.due() == []
    unfinished, over = batch.turns.answers()
    assert unfinished.scores.tolist() == [0.5, 0.5]
    assert over.accuracies.tolist() == [1.0, 1.0]
    assert all(r.truncated for each in (unfinished, over) for r in each.group.responses)


def test_messages_that_do_not_fit_end_the_episode_and_are_left_out(begin):
    batch = begin(prompt(turns=5))
    for request in batch.due():
        batch.answer(request, "2" * (200 - 1 - len("4 left after ")) + "=")
    assert batch.due() == []
    (found,) = batch.turns.answers()
    assert all(r.truncated and r.written.all() for r in found.group.responses)


@pytest.mark.parametrize(
    ("given", "options", "kind", "said"),
    [
        (prompt()._replace(images=[b"png"]), (), DataError, "has images"),
        (prompt(), ("data.max_prompt_length=3",), DataError, "data.max_prompt_length=3"),
        (prompt()._replace(ground_truth="many"), (), EpisodeError, "reset of the environment"),
    ],
)
def test_a_prompt_that_cannot_begin_is_an_error_and_asks_for_nothing(
    begin, given, options, kind, said
):
    batch = begin(given, prompt(2), options=("learner.max_tokens_per_micro_batch=4096", *options))
    assert {request.prompt_id for request in batch.due()} <= {2}
    found = batch.turns.answers()[0]
    assert isinstance(found, kind)
    assert said in str(found)


def test_one_failed_episode_drops_its_group_and_no_other(begin):
    batch = begin(prompt(), prompt(2), name="Evil")
    for request in batch.due():
        batch.answer(request, "raise" if request.key[:2] == (1, 1) else "2")
    for request in batch.due():
        batch.answer(request)
    batch.due()
    failed, whole = batch.turns.answers()
    assert isinstance(failed, EpisodeError)
    assert isinstance(whole, ScoredGroup)


def test_a_prompt_whose_turns_no_engine_answered_was_set_aside(begin):
    batch = begin(prompt(), prompt(2))
    for request in batch.due():
        if request.prompt_id == 2:
            batch.answer(request)
    for request in batch.due():
        batch.answer(request)
    batch.due()
    aside, whole = batch.turns.answers()
    assert isinstance(aside, EngineError)
    assert isinstance(whole, ScoredGroup)


def test_a_reward_that_is_not_finite_stops_the_run_unless_it_is_to_be_skipped(begin):
    def answers(*options: str) -> list[Any]:
        batch = begin(prompt(), name="Evil", options=options)
        for request in batch.due():
            batch.answer(request, "nan")
        batch.due()
        return batch.turns.answers()

    with pytest.raises(NonFiniteError, match="prompt 1"):
        answers()
    assert isinstance(answers("recovery.on_nonfinite=skip")[0], NonFiniteError)
