import pytest

from dps_ray.tasks import compute_score
from dps_ray.tasks.geometry import well_formed
from tests.dps_ray.answer_tables import rows


def accuracy(answer: str, truth) -> float:
    return compute_score("geometry", rf"So \boxed{{{answer}}}", truth)["acc"]


@pytest.mark.parametrize("row", rows("figure_answers"), ids=lambda r: f"{r.reference} | {r.answer}")
def test_an_answer_may_be_rounded_and_have_a_unit_and_a_name(row):
    assert accuracy(row.answer, row.reference) == row.equal


@pytest.mark.parametrize("source", ["geometry", "hiyouga/geometry3k", "geometry3k", "geo3k"])
@pytest.mark.parametrize(
    ("response", "score", "acc"),
    [
        (r"<think>half of ten</think> \boxed{5}", 1.0, 1.0),
        (r"<think>half of ten</think> \boxed{6}", 0.1, 0.0),
        (r"half of ten: \boxed{5}", 0.9, 1.0),
        (r"<think>half of ten: \boxed{5}</think>", 0.9, 1.0),
        (r"<think>half of ten</think> 5", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_a_tenth_of_the_score_is_for_the_format(source, response, score, acc):
    result = compute_score(source, response, "5")
    assert result["acc"] == acc
    assert result["score"] == pytest.approx(score)


def test_mathematics_allows_for_no_rounding():
    assert compute_score("math", r"\boxed{5.83}", r"\sqrt{34}")["acc"] == 0
    assert compute_score("geometry", r"\boxed{5.83}", r"\sqrt{34}")["acc"] == 1


@pytest.mark.parametrize(
    ("response", "well"),
    [
        (r"<think>a</think>\boxed{1}", True),
        (r"<think></think> so \boxed{1} it is", True),
        (r" <think>a</think>\boxed{1}", False),
        (r"<think>a\boxed{1}", False),
        (r"<think>a</think>\boxed{1", False),
        (r"\boxed{1}<think>a</think>", False),
    ],
)
def test_thoughts_come_first_and_the_box_after_them(response, well):
    assert well_formed(response) == well
