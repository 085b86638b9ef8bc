import json
import subprocess
import sys

import pytest

from dps_ray.errors import DataError
from pipelines.monitoring.timeline import (
    Span,
    Timeline,
    busy_share,
    lanes,
    read_timeline,
    trace,
    write_trace,
)

TRAIN = Span("learner", "train", 1, 1.8e9 + 4, 1.8e9 + 6.5)


def work(lane, *pieces):
    """Spans of one lane from (began, ended) pairs."""
    return [Span(lane, "generate", 1, began, ended) for began, ended in pieces]


def test_spans_read_back_as_they_were_added(tmp_path):
    Timeline(tmp_path / "run").add(*TRAIN)
    assert read_timeline(tmp_path / "run") == [TRAIN]


def test_a_folder_without_a_timeline_has_no_spans(tmp_path):
    assert read_timeline(tmp_path) == []


def test_a_torn_last_line_is_dropped_and_does_not_spoil_the_next(tmp_path):
    Timeline(tmp_path).add(*TRAIN)
    with (tmp_path / "timeline.jsonl").open("a") as file:
        file.write('{"pool": "lear')
    assert read_timeline(tmp_path) == [TRAIN]
    Timeline(tmp_path).add(*TRAIN)
    assert read_timeline(tmp_path) == [TRAIN, TRAIN]


def test_resuming_forgets_the_work_for_later_steps(tmp_path):
    timeline = Timeline(tmp_path)
    timeline.rewind(-1)
    for step in (1, 2, 3, 2):
        timeline.add(*TRAIN._replace(step=step))
    timeline.rewind(2)
    assert [span.step for span in read_timeline(tmp_path)] == [1, 2, 2]


def test_lanes_stand_by_pool_and_number():
    names = ["rollout/10", "rollout/2", "driver", "verifier/0", "learner", "rollout/2"]
    assert lanes(Span(name, "", 1, 0, 1) for name in names) == [
        "driver",
        "learner",
        "rollout/2",
        "rollout/10",
        "verifier/0",
    ]


def test_time_covered_twice_counts_once():
    assert busy_share(work("learner", (1, 4), (2, 3), (3, 5), (7, 8)), "learner", 0, 10) == 0.5


def test_work_outside_the_window_does_not_count():
    spans = work("learner", (0, 2), (3, 5), (9, 12), (20, 30))
    assert busy_share(spans, "learner", 1, 11) == 0.5


def test_a_pool_is_as_busy_as_the_mean_of_its_lanes():
    spans = work("rollout/0", (0, 10)) + work("rollout/1", (0, 5)) + work("rollout/2", (50, 60))
    assert busy_share(spans, "rollout", 0, 10) == 0.5
    assert busy_share(spans, "rollout/1", 0, 10) == 0.5


def test_a_pool_whose_name_begins_alike_is_another():
    assert busy_share(work("rollouts/0", (0, 10)), "rollout", 0, 10) == 0.0


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match="empty"):
        busy_share([], "learner", 3, 3)


def test_the_trace_has_a_named_row_for_each_lane_and_microseconds_from_the_first_span():
    spans = [
        Span("rollout/0", "generate", 2, 100.5, 102.0),
        Span("learner", "train", 1, 100.0, 101.0),
    ]
    events = trace(spans)["traceEvents"]
    rows = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    drawn = [
        (rows[e["tid"]], e["name"], e["ts"], e["dur"], e["args"]) for e in events if e["ph"] == "X"
    ]
    assert drawn == [
        ("learner", "train", 0, 1_000_000, {"step": 1}),
        ("rollout/0", "generate", 500_000, 1_500_000, {"step": 2}),
    ]


def test_overlapping_work_of_a_lane_is_traced_on_two_rows():
    events = trace(work("rollout/0", (0, 2), (1, 3), (2, 4)))["traceEvents"]
    rows = [(e["tid"], e["ts"] / 1e6) for e in events if e["ph"] == "X"]
    assert rows == [(0, 0), (0, 2), (1, 1)]
    assert [e["args"]["name"] for e in events if e["name"] == "thread_name"] == ["rollout/0"] * 2


def test_the_command_writes_the_trace_beside_the_timeline(tmp_path):
    Timeline(tmp_path).add(*TRAIN)
    done = command(tmp_path)
    assert done.stdout.split() == [str(tmp_path / "timeline.trace.json")], done.stderr
    written = json.loads((tmp_path / "timeline.trace.json").read_text())
    assert written == trace([TRAIN])


def test_a_folder_without_spans_has_no_trace(tmp_path):
    with pytest.raises(DataError, match=r"no span in a timeline\.jsonl"):
        write_trace(tmp_path)
    done = command(tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def command(folder):
    line = [sys.executable, "-m", "pipelines.timeline", str(folder)]
    return subprocess.run(line, capture_output=True, text=True, check=False)
