import numpy as np
import pytest

from dps_ray.beliefs.prediction import confusion_matrix, prediction_metrics

#                      predicted states 0, 1, 1, 1, 2 against seen states 0, 1, 0, 1, 1
PREDICTED = np.eye(3)[[0, 1, 1, 1, 2]] * 0.4 + 0.2
SEEN = np.array([0, 1, 0, 1, 1], dtype=np.int8)


def test_rows_are_what_was_predicted_and_columns_what_was_seen():
    assert confusion_matrix(PREDICTED, SEEN).tolist() == [[1, 0, 0], [1, 2, 0], [0, 1, 0]]


def test_metrics_have_the_published_names_and_values():
    metrics = prediction_metrics(PREDICTED, SEEN)
    assert metrics.pop("tasksample_hmmpred/predict_accuracy") == pytest.approx(3 / 5)
    assert metrics.pop("tasksample_hmmpred/precision_class2_micro") == pytest.approx(2 / 3)
    assert metrics.pop("tasksample_hmmpred/recall_class2_micro") == pytest.approx(2 / 3)
    assert metrics.pop("tasksample_hmmpred/f1_class2_micro") == pytest.approx(2 / 3)
    assert metrics.pop("tasksample_hmmpred_cm/21") == 1
    assert metrics.pop("tasksample_hmmpred_cm/32") == 1
    assert len(metrics) == 7


def test_prompts_nothing_was_predicted_of_are_left_out():
    predicted = np.vstack([PREDICTED, np.full((2, 3), np.nan)])
    seen = np.append(SEEN, [2, 2])
    assert prediction_metrics(predicted, seen) == prediction_metrics(PREDICTED, SEEN)


def test_a_selector_that_predicts_nothing_has_no_metrics():
    assert prediction_metrics(np.full((4, 3), np.nan), np.zeros(4, dtype=int)) == {}
    assert prediction_metrics(np.empty((0, 3)), np.empty(0, dtype=int)) == {}


def test_a_ratio_without_a_denominator_is_left_out():
    metrics = prediction_metrics(np.eye(3)[[0, 2]], np.array([0, 0]))
    assert "tasksample_hmmpred/precision_class2_micro" not in metrics
    assert metrics["tasksample_hmmpred/predict_accuracy"] == 0.5
