"""What an evaluation makes of answers: metrics in training, results and table of the program."""

import pytest

from pipelines.evaluation.results import result_of, tables
from pipelines.monitoring.held_out import held_out_accuracy
from pipelines.rollout.answers import Answered, metrics_of


def answers(source, *accuracies):
    return [
        Answered(row, source, values, tokens=10, truncated=1, seconds=0.5, reward=sum(values))
        if values is not None
        else Answered(row, source, None, error="its verifier died")
        for row, values in enumerate(accuracies)
    ]


RIGHT, HALF, WRONG, FAILED = (1.0, 1.0), (1.0, 0.0), (0.0, 0.0), None


def test_training_measures_every_source_all_prompts_and_the_average():
    metrics = metrics_of([*answers("sums", RIGHT), *answers("products", WRONG, WRONG, HALF)])
    assert metrics["val-core/sums/acc/mean@2"] == 1
    assert metrics["val-core/products/acc/mean@2"] == pytest.approx(1 / 6)
    assert metrics["val-core/products/acc/pass@2"] == pytest.approx(1 / 3)
    assert metrics["val-aux/products/acc/pass@1"] == pytest.approx(1 / 6)
    assert metrics["val-core/all/acc/mean@2"] == pytest.approx(3 / 8)
    assert metrics["val-core/average/acc/mean@2"] == pytest.approx((1 + 1 / 6) / 2)
    for name in ("low@2", "high@2", "pass_low@2", "pass_high@2"):
        assert 0 <= metrics[f"val-aux/all/acc/{name}"] <= 1
    assert metrics["val-aux/all/reward/mean@2"] == pytest.approx(3 / 4)
    accuracy = held_out_accuracy(metrics)
    assert accuracy.mean == pytest.approx(3 / 8)
    assert accuracy.low <= accuracy.mean <= accuracy.high
    assert metrics["val-aux/truncated"] == 4


def test_a_failed_prompt_is_counted_and_is_no_wrong_answer():
    metrics = metrics_of(answers("sums", RIGHT, FAILED))
    assert metrics["val-core/all/acc/mean@2"] == 1
    assert metrics["val-aux/all/reward/mean@2"] == 2
    assert metrics["val-aux/failed"] == 1


def test_with_nothing_scored_there_is_no_accuracy():
    metrics = metrics_of(answers("sums", FAILED))
    assert metrics == {"val-aux/failed": 1, "val-aux/truncated": 0}
    assert held_out_accuracy(metrics) is None


def test_an_average_that_lacks_a_source_is_left_out():
    both = [*answers("sums", RIGHT), *answers("products", FAILED)]
    assert "val-core/average/acc/mean@2" not in metrics_of(both)
    assert result_of({"a": answers("sums", RIGHT), "b": answers("sums", FAILED)})["average"] is None


def test_a_result_counts_what_its_numbers_are_made_of():
    result = result_of(
        {"easy": answers("math", RIGHT, HALF, FAILED), "hard": answers("math", WRONG)}
    )
    easy, hard = result["columns"]
    assert {name: easy[name] for name in list(easy)[:8]} == {
        "name": "easy",
        "data_source": "math",
        "prompts": 3,
        "failed": 1,
        "responses": 4,
        "truncated": 2,
        "tokens": 20,
        "seconds": 1.0,
    }
    assert easy["reward"] == 1.5
    assert easy["mean@2"]["value"] == 0.75
    assert easy["pass@2"]["value"] == 1
    assert hard["pass@2"] == {"value": 0, "low": 0, "high": 0}
    assert result["average"]["mean@2"]["value"] == 0.375


def test_a_test_set_with_several_data_sources_has_a_column_for_each():
    mixed = [*answers("sums", RIGHT), *answers("products", WRONG)]
    result = result_of({"mixed": mixed, "other": answers("sums", HALF)})
    assert [c["name"] for c in result["columns"]] == ["mixed/sums", "mixed/products", "other"]
    assert result["average"]["mean@2"]["value"] == pytest.approx(0.5)


def test_the_table_has_a_row_a_model_and_a_column_a_test_set_with_the_average_last():
    before = result_of({"easy": answers("math", RIGHT, RIGHT), "hard": answers("math", WRONG)})
    after = result_of({"easy": answers("math", RIGHT, FAILED), "hard": answers("math", FAILED)})
    rows = [{"name": "before", **before}, {"name": "a much longer name", **after}]
    mean, passed, notes = tables(rows, 2).split("\n\n")
    assert mean.splitlines() == [
        "| mean@2 (%)         |        easy |      hard |       Avg. |",
        "|--------------------|------------:|----------:|-----------:|",
        "| before             | 100.0 ± 0.0 | 0.0 ± 0.0 | 50.0 ± 0.0 |",
        "| a much longer name | 100.0 ± 0.0 |         – |          – |",
    ]
    assert passed.startswith("| pass@2 (%)")
    assert "a much longer name on hard: 1 of 1 prompts failed and are left out." in notes
    assert "before on easy: 2 of 4 responses were truncated." in notes


def test_a_single_test_set_has_no_average():
    table = tables([{"name": "m", **result_of({"easy": answers("math", RIGHT)})}], 2)
    assert "Avg." not in table
