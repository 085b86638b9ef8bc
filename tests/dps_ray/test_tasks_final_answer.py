import pytest

from dps_ray.tasks.final_answer import final_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so it is \boxed{42}.", "42"),
        (r"\boxed{1}, or rather $\boxed{ \frac{1}{\sqrt{2}} }$ as above", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1, 2\right\}} and {", r"\left\{1, 2\right\}"),
        (r"\boxed{(0, 1]} and \boxed{[0, 1)}", "[0, 1)"),
        (r"\fbox{7}", "7"),
        (r"\boxed 5$ it is", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\begin{matrix}1 \\ 2 \\\end{matrix}}.", r"\begin{matrix}1 \\ 2 \\\end{matrix}"),
        (r"\boxed{1 \\}", r"1 \\"),
        (r"\boxed{5", None),
        (r"\boxed{4} and then \boxed{5", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed", None),
        ("<answer> 42 </answer>", "42"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),
        ("<answer>1</answer> no: <answer>2", None),
        (r"\boxed{1} <answer>2</answer>", "1"),
        ("The answer is 42.", "42"),
        ("The final answer is: $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("The answer is 3.5. So be it.", "3.5"),
        ("**Answer:** 42\nbecause", "42"),
        (r"The answer is $\$18.90$.", r"\$18.90"),
        (r"answer: \(x = 2\)", "x = 2"),
        ("The answer is 1. No, the answer is 2.", "2"),
        ("The final answer is:\n\n42\n\nI hope it is correct.", "42"),
        ("The final answer is:\n$$\n\\frac{1}{2}\n$$\nas above.", r"\frac{1}{2}"),
        ("The final answer is:\r\n\r\n\\[\r\nx = 5.\r\n\\]", "x = 5."),
        ("The answer is $$\n5\n$$", "5"),
        ("The answer is\n\\(x + 1\\)", "x + 1"),
        ("The answer is as follows:\n\n\\[ x\n+ 1 \\]", "x\n+ 1"),
        ("**Final Answer**\n\n$\\sqrt{2}$", r"\sqrt{2}"),
        ("## Answer:\n\n**42**", "42"),
        ("The answer is 5.\n$$ 6 $$", "5"),
        ("Answer: 5\n\nCheck:\n$$ 6 $$", "5"),
        ("The answer is: > 5", "> 5"),
        ("The answer is:\n\n", None),
        ("The answer is:\n$$\n5", "$$"),
        ("an answer is hard to find", "hard to find"),
        ("answers are nice", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_last_box_counts_then_the_last_tag_then_the_last_words(response, answer):
    assert final_answer(response) == answer


def test_an_answer_that_is_too_long_is_none():
    assert final_answer(r"\boxed{" + "1" * 3_000 + "}") is None
    assert final_answer("<answer>" + "1" * 3_000 + "</answer>") is None


def test_where_the_answer_stands_in_a_long_response_does_not_matter():
    for before, after in [("x" * 10**6, ""), ("", "x" * 10**6)]:
        assert final_answer(before + r" \boxed{5} " + after) == "5"
