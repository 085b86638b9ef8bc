"""Rows of a data set that a sampler selects, and the import without TRL."""

import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset

from dps_ray import PromptSampler
from dps_ray.errors import CheckpointError, ConfigError, SamplerError
from dps_ray.integrations.dataset_rows import STATE_FILE, DatasetRows

DATA = Dataset.from_dict(
    {
        "prompt": [f"problem {row}" for row in range(30)],
        "level": [row % 3 for row in range(30)],
        "answer": list(range(30)),
    }
)


def test_a_row_is_known_by_its_number_unless_a_column_is_named():
    by_number, by_name = DatasetRows(DATA, 4), DatasetRows(DATA, 4, keys="prompt")
    taken = by_number.sampler.take(3)
    assert taken == PromptSampler(range(30), 4).take(3)
    rows = by_number.read([*taken, taken[0]], ["answer"])
    assert rows == [{"answer": key} for key in (*taken, taken[0])]
    assert rows[0] is not rows[3]
    assert by_name.read(["problem 7"], ["prompt", "answer"]) == [
        {"prompt": "problem 7", "answer": 7}
    ]


def test_columns_and_values_for_each_row_are_the_same():
    named = DatasetRows(DATA, 4, keys="prompt", kinds="level", seed=5)
    given = DatasetRows(DATA, 4, keys=list(DATA["prompt"]), kinds=list(DATA["level"]), seed=5)
    for _ in range(3):
        taken = named.sampler.take(4)
        assert taken == given.sampler.take(4)
        for rows in (named, given):
            rows.sampler.report(taken, np.eye(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": "id"}, "keys='id': the data set has no such column; it has prompt, level"),
        ({"kinds": [1, 2]}, "kinds has 2 values for 30 rows"),
        ({"decai": 0.5}, "decai"),
    ],
)
def test_wrong_arguments_say_what_to_write(arguments, message):
    with pytest.raises(ConfigError, match=message):
        DatasetRows(DATA, 4, **arguments)


def test_a_key_that_occurs_twice_is_an_error():
    with pytest.raises(SamplerError, match="occurs twice"):
        DatasetRows(DATA, 4, keys="level")


def test_a_saved_state_gives_the_same_choices(tmp_path):
    first = DatasetRows(DATA, 4, kinds="level")
    first.sampler.report(first.sampler.take(5), np.tile([0, 1, 1, 0], (5, 1)))
    first.save(tmp_path / "checkpoint-1")
    assert [path.name for path in (tmp_path / "checkpoint-1").iterdir()] == [STATE_FILE]
    then = DatasetRows(DATA, 4, kinds="level")
    found = then.load(tmp_path / "checkpoint-1")
    assert found is not None
    assert (found.known, found.added, found.dropped) == (5, 0, 0)
    assert then.sampler.take(9) == first.sampler.take(9)


def test_a_folder_without_a_state_changes_nothing(tmp_path):
    assert DatasetRows(DATA, 4).load(tmp_path) is None


def test_a_damaged_state_is_named(tmp_path):
    rows = DatasetRows(DATA, 4)
    rows.save(tmp_path)
    whole = (tmp_path / STATE_FILE).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive"):
        (tmp_path / STATE_FILE).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"{STATE_FILE} is damaged"):
            rows.load(tmp_path)


@pytest.mark.slow  # imports torch
def test_without_trl_the_import_says_what_to_install():
    program = "import sys; sys.modules['trl'] = None; import dps_ray.integrations.trl"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'needs TRL: pip install "dps_ray[trl]"' in done.stderr.splitlines()[-1]
