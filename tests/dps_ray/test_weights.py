import pickle

import pytest

from dps_ray.weights import START, WeightsId


@pytest.mark.parametrize(
    ("weights", "text"),
    [(WeightsId(7, 40), "e0007.00000040"), (WeightsId(12_345, 10**9), "e12345.1000000000")],
)
def test_weights_are_written_as_epoch_and_version_and_read_back(weights, text):
    assert str(weights) == f"{weights}" == text
    assert WeightsId.parse(text) == weights


def test_the_same_version_of_another_epoch_is_other_weights():
    assert WeightsId(1, 2) != WeightsId(2, 2)


def test_weights_are_the_same_in_another_process():
    assert pickle.loads(pickle.dumps(WeightsId(1, 2))) == WeightsId(1, 2)


def test_the_start_models_weights_are_no_learners():
    assert WeightsId(1, 0) != START  # the first that a learner of the first epoch sends


@pytest.mark.parametrize(
    "text", ["", "start", "e0007", "0007.00000040", "e0007.", "e-1.2", "e1.2.3"]
)
def test_another_text_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"expected a name such as e0007\.00000040"):
        WeightsId.parse(text)
