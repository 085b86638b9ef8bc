"""Rows of a dataset in, rewards of single responses out: what the plug-ins have in common."""

import pytest

from dps_ray.errors import ConfigError, SamplerError
from dps_ray.integrations.rows import RowSampler

COLUMNS = {"id": [f"problem {row}" for row in range(40)], "level": [row % 4 for row in range(40)]}


def rows_of(count=40, columns=COLUMNS, **options):
    return RowSampler(count, columns.__getitem__, 2, options, batch=4)


def test_rows_are_taken_once_until_their_responses_are_reported():
    rows = rows_of()
    first = rows.take(4)
    assert not set(first) & set(rows.take(4))
    rows.report([row for row in first for _ in range(2)], [0.0, 1.0] * 4)
    assert rows.metrics()["dps/effective_ratio"] == 1.0
    assert rows.metrics()["dps/in_flight"] == 4


def test_responses_of_a_row_may_come_between_those_of_others():
    mixed, sorted_ = rows_of(), rows_of()
    first = mixed.take(4)
    assert sorted_.take(4) == first
    mixed.report(first + first[::-1], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    sorted_.report([row for row in first for _ in range(2)], [1, 1, 0, 0, 0, 0, 0, 1])
    assert mixed.take(8) == sorted_.take(8)


def test_rows_are_known_by_a_column_where_one_is_named():
    before = rows_of(key="id", kinds="level")
    taken = before.take(4)
    before.report([row for row in taken for _ in range(2)], [0.0, 1.0] * 4)
    turned = {name: values[::-1] for name, values in COLUMNS.items()}
    after = rows_of(columns=turned, key="id", kinds="level")
    after.load_state_dict(before.state_dict())
    assert [39 - row for row in after.take(8)] == before.take(8)


def test_a_column_with_equal_values_is_no_key():
    with pytest.raises(SamplerError, match=r"occurs twice.*key=level"):
        rows_of(key="level")


def test_a_setting_that_the_method_lacks_is_named():
    with pytest.raises(ConfigError, match="decya"):
        rows_of(method="dps", decya=0.5)


@pytest.mark.parametrize("continues", [False, True])
def test_prompts_in_flight_stay_so_only_where_their_rollouts_continue(continues):
    before = rows_of()
    taken = before.take(4)
    after = rows_of()
    after.load_state_dict(before.state_dict(), continues=continues)
    assert set(after.take(4)).isdisjoint(taken) == continues
