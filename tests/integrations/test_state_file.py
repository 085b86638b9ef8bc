"""The state of a sampler as a file in the folder of a checkpoint."""

import numpy as np
import pytest

from dps_ray import PromptSampler
from dps_ray.errors import CheckpointError
from dps_ray.integrations.state_file import STATE_FILE, read_state, write_state


def test_a_state_that_was_written_gives_the_same_choices(tmp_path):
    first, then = PromptSampler(range(30), 4), PromptSampler(range(30), 4)
    first.report(first.take(5), np.tile([0, 1, 1, 0], (5, 1)))
    write_state(tmp_path / "checkpoint-1", first.state_dict())
    write_state(
        tmp_path / "checkpoint-1", first.state_dict()
    )  # as TRL does where a folder is there
    assert [path.name for path in (tmp_path / "checkpoint-1").iterdir()] == [STATE_FILE]
    state = read_state(tmp_path / "checkpoint-1")
    assert state is not None
    assert then.load_state_dict(state).known == 5
    assert then.take(9) == first.take(9)


def test_a_folder_without_the_file_has_no_state(tmp_path):
    assert read_state(tmp_path) is None


def test_a_damaged_file_is_named(tmp_path):
    write_state(tmp_path, PromptSampler(range(30), 4).state_dict())
    whole = (tmp_path / STATE_FILE).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive"):
        (tmp_path / STATE_FILE).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"{STATE_FILE} is damaged"):
            read_state(tmp_path)
