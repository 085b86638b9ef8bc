import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dps_ray.config import VerifierSettings
from dps_ray.errors import ResponseError, RewardError
from dps_ray.prompts.dataset import Prompt
from dps_ray.rewards.sandbox import Sandbox
from dps_ray.tasks import compute_score
from dps_ray.tasks.answer_text import Size, plain
from dps_ray.tasks.confinement import Comparer
from dps_ray.tasks.mathematics import references
from tests.dps_ray.answer_tables import rows

MATH = Path(__file__).parents[2].parent / "shared/data/math"
needs_math = pytest.mark.skipif(not MATH.is_dir(), reason="the MATH data set is not here")

RIGHT, WRONG = {"score": 1.0, "acc": 1.0}, {"score": 0.0, "acc": 0.0}

# Unequal answers that are taken for equal, as math-verify takes them. Case does not count between variables, brackets
# are parentheses around three numbers and may be a set around two, a derivative without function is 0, and units do not
# count.
TOO_LENIENT = {
    ("3R^2", "3r^2"),
    ("E", "e"),
    ("(6,31,-1)", "[6,31,-1]"),
    (r"\{1,2\}", "(1,2)"),
    (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
    (r"1\text{ m}", r"1\text{ cm}"),
}

# Equal answers that are taken for unequal. The first two roots differ where a and b are negative, and the second two are
# left unexpanded; the others are notations that nothing here reads: repeating decimals, decimal commas, words for the
# empty set, lines over lengths, and abbreviations of units where there are two of them.
TOO_STRICT = {
    (r"\sqrt{\frac{a}{b}}", r"\frac{\sqrt{ab}}{b}"),
    (r"\sqrt{x-1}\sqrt{x+1}", r"\sqrt{x^2-1}"),
    (r"\frac{1}{3}", r"0.\overline{3}"),
    ("12.5", "12{,}5"),
    (r"\emptyset", r"\text{no solution}"),
    (r"\overline{AB}", "AB"),
    (r"2\text{ hours }30\text{ minutes}", r"2\text{ hours } 30\text{ min}"),
}


def boxed(answer: str) -> str:
    return rf"Thus the answer is $\boxed{{{answer}}}$."


def right(answer: str, truth) -> bool:
    result = compute_score("math", boxed(answer), truth)
    assert result in (RIGHT, WRONG)
    return result == RIGHT


# --- agreement ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", rows("equal_answers"), ids=lambda r: f"{r.reference} | {r.answer}")
def test_equal_answers_are_right_and_others_wrong(row):
    wrongly = (row.reference, row.answer) in TOO_LENIENT | TOO_STRICT
    assert right(row.answer, row.reference) == (row.equal != wrongly)


def test_what_is_found_wrongly_is_in_the_table():
    pairs = {(row.reference, row.answer): row.equal for row in rows("equal_answers")}
    assert [pairs[pair] for pair in TOO_LENIENT] == [False] * len(TOO_LENIENT)
    assert [pairs[pair] for pair in TOO_STRICT] == [True] * len(TOO_STRICT)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"1-\frac{1}{e}", r"1-\frac{1}{\mathrm{e}}"),
        (r"\sqrt{\frac{a}{b}}", r"\frac{\sqrt a}{\sqrt b}"),
        (r"\sqrt{2}", "√2"),
        ("sqrt(2)/2", r"\frac{\sqrt{2}}{2}"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    ],
)
def test_equal_answers_are_right_with_either_as_the_reference(reference, answer):
    assert right(answer, reference)
    assert right(reference, answer)


def answers(name: str) -> list[str]:
    found = [each["answer"] for each in json.loads((MATH / f"{name}.json").read_text())]
    return [str(each[0] if isinstance(each, list) else each).strip() for each in found]


@needs_math
@pytest.mark.parametrize(
    "name", ["test_math", "test_aime", "test_amc", "test_minerva", "test_olympiad_bench"]
)
def test_every_reference_answer_equals_itself(name):
    for answer in answers(name):
        assert right(answer.strip("$"), answer), answer
        if "$" not in answer.strip("$").replace(r"\$", ""):
            assert compute_score("math", f"The answer is ${answer.strip('$')}$", answer) == RIGHT


@pytest.mark.slow
@needs_math
def test_math_verify_too_finds_every_reference_answer_equal_to_itself():
    """So that references are understood, and not only compared as text."""
    code = "import json, sys; from dps_ray.tasks.equality import equal; from dps_ray.tasks.answer_text import plain\n"
    code += "print(json.dumps([a for a in map(plain, json.load(sys.stdin)) if not equal(a, a)]))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(answers("test_math")),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout) == []


@needs_math
def test_the_answer_to_another_problem_is_wrong():
    all_of_them = answers("test_math")
    equal = {
        (truth, answer)
        for truth, answer in zip(all_of_them, all_of_them[7:] + all_of_them[:7], strict=True)
        if truth != answer and right(answer, truth)
    }
    assert equal == set()


# --- what counts as an answer, and as a reference -------------------------------------------------


def test_the_last_answer_counts():
    assert compute_score("math", boxed("2") + boxed("1/2"), "0.5") == RIGHT
    assert compute_score("math", boxed("1/2") + boxed("2"), "0.5") == WRONG
    assert compute_score("math", "<answer>1/2</answer>", "0.5") == RIGHT
    assert compute_score("math", "It is 0.5", "0.5") == WRONG


@pytest.mark.parametrize(
    ("truth", "texts"),
    [
        (r"\frac{1}{2}", [r"\frac{1}{2}"]),
        (142.0, ["142.0"]),
        (np.int64(7), ["7"]),
        (["0.01\n", "0.02"], ["0.01", "0.02"]),
        (np.array(["1", "2"], dtype=object), ["1", "2"]),
        ('["0.01", "0.02"]', ["0.01", "0.02"]),
        ("[1, 2]", ["[1, 2]"]),
        ('["', ['["']),
    ],
)
def test_a_reference_is_text_or_a_number_or_several(truth, texts):
    assert references(truth) == texts


def test_any_of_several_references_will_do():
    for truth in (["1/3", "0.5"], '["1/3", "0.5"]'):
        assert right(r"\frac{1}{2}", truth)
        assert right(r"\frac{1}{3}", truth)
        assert not right(r"\frac{1}{4}", truth)


@pytest.mark.parametrize("truth", [None, "", " ", [], ["1", None], [""], True])
def test_a_ground_truth_that_is_none_is_an_error_that_shows_one(truth):
    with pytest.raises(RewardError, match="needs a ground truth such as"):
        compute_score("math", boxed("5"), truth)


@pytest.mark.parametrize(
    "source",
    [
        *("math", "MATH", "math500", "math_dapo", "aime24", "aime", "amc", "amc23"),
        *("minerva", "minerva_math", "olympiad_bench", "olympiadbench", "numina_olympiads"),
        *("HuggingFaceH4/MATH-500", "DigitalLearningGmbH/MATH-lighteval", "lighteval/MATH"),
        *("HuggingFaceH4/aime_2024", "math-ai/amc23"),
    ],
)
def test_data_sets_of_mathematics_are_known_by_name(source):
    assert compute_score(source, boxed("1/2"), "0.5") == RIGHT


@pytest.mark.parametrize("source", ["mathvista", "aimed", "openai/gsm8k", "", "math/"])
def test_a_data_set_that_only_sounds_like_it_is_an_error_that_names_the_tasks(source):
    with pytest.raises(RewardError, match="countdown4, geometry, math"):
        compute_score(source, boxed("1/2"), "0.5")


# --- size -----------------------------------------------------------------------------------------


def test_a_long_reference_allows_for_a_long_answer():
    digits = "7" * 300
    assert not Size.of(digits).fits(Size.of("1"))
    assert Size.of(digits).fits(Size.of(digits))
    truth = " + ".join(f"x_{{{i}}}" for i in range(100))
    turned = " + ".join(f"x_{{{i}}}" for i in reversed(range(100)))
    assert len(truth) > 400
    assert right(turned, truth)


def test_an_operation_left_undone_is_no_answer_unless_the_reference_has_one():
    assert not right(r"\sum_{k=1}^{3} k", "6")
    assert right(r"\sum_{k=1}^{n} k^3", r"\sum_{k=1}^{n}k^3")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "{ ",
            " ",
            "(",
            "^",
            "^(",
            "sqrt(",
            "abs(",
            "**",
            "2^2",
            "a'",
            "pi ",
            "sin ",
            "1 000 ",
            "5 in ",
        ),
        *("²", "½", "√", "√ ", "¹⁄₂", "°", "–", r"\text{", r"\text ", r"\text{a} ", r"5\text{ m} "),
        *(r"\mathrm ", r"{\rm x", r"\sqrt[3", r"\gcd(a,", r"\frac{", "\\ "),
    ],
)
def test_reading_a_text_takes_time_in_proportion_to_it(text):
    """Half a second at most; in proportion to its square it would be minutes."""
    began = time.process_time()
    plain(text * (200_000 // len(text)))
    assert time.process_time() - began < 10


# --- where it runs --------------------------------------------------------------------------------


def test_other_tasks_and_texts_that_are_equal_import_and_start_nothing():
    code = (
        "import sys, subprocess\n"
        "from dps_ray.tasks import compute_score\n"
        "subprocess.Popen = None\n"
        "assert compute_score('arithmetic', '1+2=3;', '1+2=3;')['acc'] == 1\n"
        "assert compute_score('math', r'\\boxed{5}', '5')['acc'] == 1\n"
        "assert compute_score('math', r'\\boxed{6}', '5')['acc'] == 0\n"
        "assert compute_score('math', r'\\boxed{9^{9^9}+\\sum k}', '5')['acc'] == 0\n"
        "assert 'sympy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_threads_that_come_and_go_share_one_process():
    comparer = Comparer()
    found, children = [], set()

    def compare():
        found.append(comparer.equal("0.5", r"\frac{1}{2}", False))
        children.add(comparer._sandbox._child.pid)

    for _ in range(3):
        threads = [threading.Thread(target=compare) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 12
    assert len(children) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded")
def test_a_forked_process_has_one_of_its_own():
    assert right("2x", "x+x")
    child = os.fork()
    if child == 0:
        os._exit(0 if right("3x", "x+x+x") and not right("2x", "x+x+x") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert right("4x", "x+3x")


@pytest.mark.slow
def test_a_comparison_without_end_is_an_error_with_the_limits_and_the_next_is_made():
    comparer = Comparer(VerifierSettings(seconds=120, cpu_seconds=2))
    assert comparer.equal("x+x", "2x", False)
    with pytest.raises(
        ResponseError, match=r"\(x\+y\+z\+w\+1\).*not found out within 120 s, 2 s of processor time"
    ):
        comparer.equal("x=5", "(x+y+z+w+1)^{200} = x^3 + y", False)
    assert not comparer.equal("x+x", "3x", False)


@pytest.mark.slow
def test_in_a_sandbox_the_import_is_not_charged_to_a_response():
    sandbox = Sandbox(None, VerifierSettings(seconds=60, cpu_seconds=1), 60)
    prompt = Prompt(1, [], "math", r"\frac{1}{2}", {}, [])
    try:
        scores, accuracies = sandbox.score(prompt, [boxed("3/6"), boxed("2/6"), "none"])
    finally:
        sandbox.close()
    assert scores.tolist() == accuracies.tolist() == [1.0, 0.0, 0.0]


# Where the memory ends, an import raises MemoryError, OSError, ImportError or SystemError: each was seen among these.
@pytest.mark.parametrize("gib", [0.001, 0.0014, 0.01, 0.0138, 0.0156, 0.0186, 0.0234])
def test_memory_that_the_import_does_not_fit_in_is_the_settings_fault_and_no_responses(gib):
    sandbox = Sandbox(None, VerifierSettings(memory_gib=gib), 60)
    with pytest.raises(
        RewardError, match=rf"'math' takes more than {gib:g} GiB.*memory_gib"
    ) as caught:
        sandbox.score(Prompt(1, [], "math", "x+x", {}, []), [boxed("2x")])
    assert not isinstance(caught.value, ResponseError)
    sums = Prompt(2, [], "sums", "3", {}, [])
    assert sandbox.score(sums, ["3"])[0].tolist() == [1.0]
    sandbox.close()
