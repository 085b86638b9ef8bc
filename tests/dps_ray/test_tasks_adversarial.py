"""No text makes a verifier hang, raise, do anything, or count as right what is not."""

import time

import pytest

from dps_ray.config import VerifierSettings
from dps_ray.errors import ResponseError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.sandbox import Sandbox
from dps_ray.tasks import compute_score
from tests.dps_ray.hostile_responses import ENDLESS, UNANSWERED, WRONG

TRUTHS = {
    "arithmetic": "1+2=3;",
    "countdown": {"target": 24, "numbers": [4, 6, 1]},
    "math": r"\frac{1}{2}",
    "geometry": "48",
}
# What SymPy compares differently: a formula, an equation, an interval, a matrix.
KINDS = [
    "x^2+1",
    "x=5",
    "y = 2x + 3",
    r"(-\infty, 0) \cup (1,2)",
    r"(1,2)",
    r"\{1, 2\}",
    r"x \le 3",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
    r"\text{(C)}",
]


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Starts the process that compares, which is not part of any answer's time."""
    compute_score("math", r"\boxed{2x}", "x+x")


@pytest.fixture
def harm(tmp_path):
    """A file that hostile code would write."""
    yield tmp_path / "harm"
    assert not (tmp_path / "harm").exists()


def response(task: str, answer: str) -> str:
    if task == "countdown":
        return f"<think>hm</think><answer>{answer}</answer>"
    return answer if task == "arithmetic" else rf"<think>hm</think> it is \boxed{{{answer}}}"


def accuracy(task: str, text: str, truth) -> float:
    """And it is found within a second of this process; the other's limits would be an error."""
    processor = time.process_time()
    result = compute_score(task, text, truth)
    assert time.process_time() - processor < 1
    assert result["score"] <= 0.1 + result["acc"]
    return result["acc"]


@pytest.mark.parametrize("task", TRUTHS)
@pytest.mark.parametrize("name", WRONG)
def test_a_hostile_answer_is_wrong_at_once(task, name, harm, capfd):
    answer = WRONG[name].replace("{file}", str(harm))
    assert accuracy(task, response(task, answer), TRUTHS[task]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("task", TRUTHS)
@pytest.mark.parametrize("name", UNANSWERED)
def test_a_response_without_an_answer_is_wrong_at_once(task, name):
    assert accuracy(task, UNANSWERED[name], TRUTHS[task]) == 0


@pytest.mark.parametrize("truth", KINDS)
def test_a_hostile_answer_is_wrong_whatever_the_reference_is(truth, harm):
    for answer in WRONG.values():
        text = response("math", answer.replace("{file}", str(harm)))
        assert accuracy("math", text, truth) == 0


def test_a_right_answer_among_hostile_ones_is_right():
    for answer in list(WRONG.values())[::4]:
        text = response("math", answer) + r" no: \boxed{0.5}"
        assert accuracy("math", text, TRUTHS["math"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_that_nobody_can_decide_has_failed_and_is_not_wrong(name):
    """In the process that the verifiers of a run have."""
    sandbox = Sandbox(None, VerifierSettings(seconds=120, cpu_seconds=2), 60)
    prompt = Prompt(7, [], "math", "x=5", {}, [])
    sandbox.score(prompt, [r"\boxed{x}"])
    child = sandbox._child
    with pytest.raises(ResponseError, match=r"more than 2 s of processor time.*prompt 7"):
        sandbox.score(prompt, [response("math", ENDLESS[name])])
    assert child.poll() is not None
    assert sandbox.score(prompt, [r"\boxed{5}"])[1].tolist() == [1]
    sandbox.close()
