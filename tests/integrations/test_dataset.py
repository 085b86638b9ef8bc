"""A dataset whose rows are chosen, in torch's own loader."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dps_ray.errors import CheckpointError
from dps_ray.integrations.dataset import ChosenRows
from dps_ray.integrations.rows import BY_TICK, RowSampler

SIZE, BATCH = 60, 6


class Problems:
    """Every third one is partly solved."""

    source = "a list"

    def __len__(self):
        return SIZE

    def __getitem__(self, row):
        return {"problem": f"problem {row}"}


def chosen(**options):
    rows = RowSampler(SIZE, dict, 4, options, seed=1, batch=BY_TICK)
    return ChosenRows(Problems(), rows, mark=lambda item, row: {**item, "row": row})


def steps(dataset, count, seed=0):
    """The rows of each batch, whose rewards are reported."""
    rng, given = np.random.default_rng(seed), []
    loader = DataLoader(dataset, batch_size=BATCH, collate_fn=list, shuffle=True)
    for _, batch in zip(range(count), loader, strict=False):
        rows = [item["row"] for item in batch for _ in range(4)]
        dataset.rows.report(rows, [float(row % 3 == 1 and rng.random() < 0.5) for row in rows])
        dataset.rows.tick()
        given.append([item["row"] for item in batch])
    return given


def test_each_batch_is_of_rows_that_were_not_in_flight():
    given = steps(chosen(), 5)
    assert [len(set(batch)) for batch in given] == [BATCH] * 5
    assert len({row for batch in given for row in batch}) > BATCH


def test_a_row_is_still_found_by_its_number_and_the_dataset_by_its_attributes():
    dataset = chosen()
    assert dataset[3] == {"problem": "problem 3"}
    assert dataset.source == "a list"
    assert dataset.rows.metrics()["dps/in_flight"] == 0


def test_a_checkpoint_is_read_without_pickled_arrays(tmp_path):
    whole = chosen()
    steps(whole, 3)
    torch.save(whole.state_dict(), tmp_path / "loader.pt")
    resumed = chosen()
    resumed.load_state_dict(torch.load(tmp_path / "loader.pt", weights_only=True))
    assert steps(resumed, 3, seed=1) == steps(whole, 3, seed=1)


def test_another_state_is_refused():
    with pytest.raises(CheckpointError, match="sampler_iter_state"):
        chosen().load_state_dict({"sampler_iter_state": 3})
