import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from dps_ray.errors import DataError, ResourceError
from pipelines.monitoring.report import build_report
from pipelines.monitoring.report.browser import headless_browser, open_report
from pipelines.monitoring.report.build import confusions, key_numbers, pick_samples
from pipelines.monitoring.report.charts import (
    batch_states,
    effective_ratio,
    phase_times,
    times_sampled,
)
from pipelines.monitoring.report.cost import accuracy_by_cost, group_sizes, remarks
from pipelines.monitoring.report.pools import when_pools_worked
from pipelines.monitoring.run_log import (
    RunLog,
    read_events,
    read_metrics,
    read_samples,
    read_summary,
)
from pipelines.monitoring.summary import details, headline
from pipelines.monitoring.timeline import Span, Timeline

RECORDED = Path(__file__).parents[1] / "data" / "run"
ATTACK = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


@pytest.fixture(scope="module")
def browser():
    try:
        with headless_browser() as browser:
            yield browser
    except ResourceError as error:
        pytest.skip(str(error))


def keep(run, wanted):
    """Rewrites the run's metrics: `wanted(step, name)` says what to keep."""
    lines = []
    for record in read_metrics(run):
        kept = {
            n: v for n, v in record.items() if n in ("step", "time") or wanted(record["step"], n)
        }
        if len(kept) > 2:
            lines.append(json.dumps(kept) + "\n")
    (run / "metrics.jsonl").write_text("".join(lines))


def change_summary(run, **changed):
    summary = {**read_summary(run), **changed}
    (run / "summary.json").write_text(json.dumps(summary))


def without_predictions(run):
    keep(run, lambda step, name: not name.startswith(("tasksample_hmmpred", "probe/")))
    change_summary(run, method="uniform", uniform_effective_ratio=None)


def one_step(run):
    keep(run, lambda step, name: step <= 1)


def unfinished(run):
    (run / "summary.json").unlink()
    keep(run, lambda step, name: step <= 17)


def before_the_first_step(run):
    (run / "summary.json").unlink()
    (run / "samples.jsonl").unlink()
    (run / "config.yaml").unlink()
    keep(run, lambda step, name: step == 0)


def complete(run):
    """As it was recorded."""


def with_a_timeline(run):
    timeline = Timeline(run)
    for span in spans(steps=30):
        timeline.add(*span)


CASES = [
    complete,
    with_a_timeline,
    without_predictions,
    one_step,
    unfinished,
    before_the_first_step,
]


def shown(browser, run, width=1200):
    """Opens the run's report and returns its text; fails on anything the console calls severe."""
    browser.get_log("browser")
    open_report(browser, build_report(run), width)
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
    return browser.execute_script("return document.body.innerText")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_chart_is_drawn_without_a_console_error(browser, run, case):
    case(run)
    shown(browser, run)
    empty = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].filter(c => !c.querySelector('svg.main-svg .trace, svg.main-svg .bars')).map(c => c.ariaLabel)"
    )
    assert empty == []


@pytest.mark.slow
def test_the_page_fits_a_narrow_screen(browser, run):
    shown(browser, run, width=400)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400


@pytest.mark.slow
def test_a_complete_run_shows_every_part(browser, run):
    text = shown(browser, run)
    summary = read_summary(run)
    for words in (
        headline(summary),
        *details(summary),
        summary["command"],
        read_samples(run)[0]["prompt"],
    ):
        assert words in text
    for title in (
        "Accuracy on held-out prompts",
        "Reward in the batch",
        "Effective ratio",
        "What the batch was made of",
        "Predicted against seen",
        "Predicted state against seen state",
        "Prompts by how often they were rolled out",
        "Response length",
        "Entropy",
        "Policy loss",
        "Gradient norm",
        "Ratio clipped",
        "Seconds a step",
        "Configuration",
    ):
        assert title in text


@pytest.mark.slow
def test_what_a_policy_writes_is_text_and_never_runs(browser, run):
    steps = [sample["step"] for sample in read_samples(run)]
    hostile = dict.fromkeys(("data_source", "prompt", "response", "ground_truth"), ATTACK)
    log = RunLog(run, [])
    log.samples([{**hostile, "step": max(steps) + 1, "score": 0.0, "acc": 0.0, "state": 0}])
    change_summary(run, command=ATTACK, task=ATTACK)
    (run / "config.yaml").write_text(ATTACK)
    text = shown(browser, run)
    assert text.count(ATTACK) >= 6
    assert browser.execute_script("return window.pwned") is None


@pytest.mark.slow
def test_the_page_fetches_nothing(browser, run):
    shown(browser, run)
    fetched = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert [name for name in fetched if not name.startswith("data:")] == []


@pytest.mark.slow
def test_the_configuration_opens_on_demand(browser, run):
    assert (config := (run / "config.yaml").read_text().strip()) not in shown(browser, run)
    browser.execute_script("document.querySelector('details').open = true")
    assert config in browser.execute_script("return document.body.innerText")


@pytest.mark.slow
def test_a_run_without_predictions_says_so(browser, run):
    without_predictions(run)
    text = shown(browser, run)
    assert "This run recorded no predictions" in text
    assert "Predicted state against seen state" not in text
    assert "drawn uniformly" not in text


@pytest.mark.slow
def test_an_unfinished_run_is_called_unfinished(browser, run):
    unfinished(run)
    text = shown(browser, run)
    assert "This run has not finished: 17 steps are recorded." in text
    assert "Known when the run has finished." in text


def test_half_a_character_in_a_response_does_not_stop_the_report(run):
    log = RunLog(run, [])
    log.samples([{**read_samples(run)[0], "step": 10**6, "response": "broken \ud83d here"}])
    assert "broken ? here" in build_report(run).read_text(encoding="utf-8")


def met_on_the_way(run):
    """What the report says went wrong: {words: count}."""
    page = build_report(run).read_text()
    said = re.search(r"Met on the way: (.*)\.</p>", page)
    pairs = (part.rsplit(" ", 1) for part in said[1].split(", ")) if said else ()
    return {words: int(count) for words, count in pairs}


def test_the_report_of_the_recorded_run_shows_its_restarts(run):
    last = read_metrics(run)[-1]
    restarts = {
        f"{name.removeprefix('recovery/restarts/').replace('_', ' ')} restarts": int(count)
        for name, count in last.items()
        if name.startswith("recovery/restarts/")
    }
    assert len(restarts) == 4
    assert met_on_the_way(run) == {**restarts, "steps done again": 2, "checkpoints that failed": 1}
    page = build_report(run).read_text()
    assert "What was lost and replaced?" in page
    for event in read_events(run):
        assert f"<td>{event['name']}</td>" in page
        assert f"<td>{event['seconds']:.1f} s</td>" in page


def test_a_run_in_which_nothing_was_lost_says_nothing_of_it(run):
    keep(run, lambda step, name: not name.startswith("recovery/"))
    (run / "events.jsonl").unlink()
    assert met_on_the_way(run) == {}
    assert "What was lost and replaced?" not in build_report(run).read_text()


def test_counts_of_a_step_are_added_up_and_those_since_the_start_go_on_after_a_resume(run):
    log = RunLog(run, [])
    keep(run, lambda step, name: not name.startswith("recovery/"))
    log.step(1, {"rollouts/skipped": 2.0, "recovery/restarts/verifier": 1.0})
    log.step(2, {"rollouts/skipped": 3.0, "recovery/restarts/verifier": 4.0})
    log.step(3, {"recovery/restarts/verifier": 1.0, "recovery/quarantined_prompts": 2.0})
    log.step(4, {"recovery/restarts/verifier": 2.0, "recovery/quarantined_prompts": 1.0})
    keep(run, lambda step, name: step <= 4)
    assert met_on_the_way(run) == {
        "groups dropped": 5,
        "verifier restarts": 6,
        "prompts set aside": 1,
    }


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no metrics\.jsonl"):
        build_report(tmp_path)


def test_a_run_that_recorded_nothing_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="recorded no step"):
        build_report(tmp_path)


def test_the_confusion_matrix_is_summed_over_the_run_and_its_thirds():
    records = [
        {
            f"tasksample_hmmpred_cm/{i}{j}": float(step * (i == 2))
            for i in (1, 2, 3)
            for j in (1, 2, 3)
        }
        for step in range(1, 11)
    ]
    whole, first, second, last = confusions(records)
    assert whole.counts == [[0, 0, 0], [55, 55, 55], [0, 0, 0]]
    assert whole.shares[1] == pytest.approx([1 / 3] * 3)
    assert whole.shares[0] == [0, 0, 0]
    assert [part.counts[1][1] for part in (first, second, last)] == [6, 22, 27]


def test_a_few_steps_have_one_confusion_matrix():
    records = [{f"tasksample_hmmpred_cm/{i}{j}": 1.0 for i in (1, 2, 3) for j in (1, 2, 3)}] * 8
    assert [part.title for part in confusions(records)] == ["Whole run"]


def test_samples_come_from_the_start_the_middle_and_the_end_one_of_each_state():
    samples = [
        {"step": step, "state": state, "response": n}
        for step in (1, 5, 10, 20, 60)
        for state in (2, 0)
        for n in range(2)
    ]
    picked = pick_samples(samples)
    assert [step for step, _ in picked] == [1, 10, 60]
    assert [(s["state"], s["response"]) for s in picked[0][1]] == [(0, 0), (2, 0)]
    assert pick_samples([]) == []


def test_key_numbers_of_an_unfinished_run_are_those_it_knows():
    numbers = key_numbers({"steps": 4, "seconds": 10.0, "rollouts": 2048, "tokens": 50000})
    assert [(n.label, n.value, n.note) for n in numbers] == [
        ("Rollouts", "2,048", "50,000 tokens"),
        ("Steps", "4", "2.5 s a step"),
        ("Time", "10s", "without the start-up"),
    ]


def test_the_histogram_counts_every_prompt_once_in_bars_of_equal_width():
    chart = times_sampled({"0": 50, "1": 20, "2": 1, "3": 5, "24": 2, "13": 1})
    (bars,) = chart.figure.data
    assert bars.x[0] == "0"
    assert bars.x[1:3] == ("1–2", "3–4")
    assert bars.x[-1] == "23–24"
    assert bars.y == (50, 21, 5, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2)
    assert chart.caption.startswith("63% of the pool")


def test_a_pool_rolled_out_in_full_has_a_bar_for_never():
    (bars,) = times_sampled({"1": 3, "2": 4}).figure.data
    assert list(bars.x) == ["0", "1", "2"]
    assert list(bars.y) == [0, 3, 4]


def test_the_systems_own_share_is_what_engine_and_learner_leave():
    seconds = {
        "generate": 6.0,
        "train": 2.0,
        "select": 0.25,
        "score": 0.5,
        "publish": 0.25,
        "step": 9.5,
    }
    records = [
        {"step": 1, "timing_s/probe": 0.5, **{f"timing_s/{p}": s for p, s in seconds.items()}}
    ]
    chart = phase_times(records)
    assert "Engine and learner took 85.0% of the time" in chart.caption
    assert {bar.name: bar.y[0] for bar in chart.figure.data}["other"] == 0.5


def test_a_long_run_is_drawn_with_a_hundred_bars_of_the_same_mean():
    records = [
        {"step": s, "timing_s/generate": float(s), "timing_s/step": float(s)}
        for s in range(1, 2001)
    ]
    (bars,) = phase_times(records).figure.data
    assert len(bars.y) == 100
    assert sum(bars.y) / 100 == pytest.approx(1000.5)


def test_a_noisy_curve_is_drawn_with_its_trailing_mean():
    records = [{"step": s, "tasksample/partial_solve_ratio": float(s % 2)} for s in range(1, 41)]
    raw, smooth = effective_ratio(records).figure.data
    assert list(raw.y[:4]) == [1, 0, 1, 0]
    assert list(smooth.y[4:]) == [0.5] * 36


def test_the_states_of_a_batch_stack_to_the_whole():
    charts = batch_states(read_metrics(RECORDED))
    totals = [sum(shares) for shares in zip(*(bar.y for bar in charts.figure.data), strict=True)]
    assert totals == pytest.approx([1.0] * len(totals), abs=1e-4)


def spans(steps, pieces=1):
    """A generate of two seconds in each of two lanes and a train of one second, `pieces` times a step."""
    made = []
    for i in range(steps * pieces):
        step, began = 1 + i // pieces, 1.8e9 + 3 * i
        made += [Span(f"rollout/{lane}", "generate", step, began, began + 2) for lane in (0, 1)]
        made.append(Span("learner", "train", step, began + 2, began + 3))
    return made


def bars(chart):
    """(lane, began, seconds, step) of all that is drawn."""
    return [
        (lane, base, seconds, custom[1])
        for part in chart.figure.data
        for lane, base, seconds, custom in zip(
            part.y, part.base, part.x, part.customdata, strict=True
        )
    ]


def test_work_is_drawn_on_its_lane_from_the_first_second():
    chart = when_pools_worked(spans(steps=2))
    assert bars(chart) == [
        ("rollout/0", 0, 2, 1),
        ("rollout/1", 0, 2, 1),
        ("rollout/0", 3, 2, 2),
        ("rollout/1", 3, 2, 2),
        ("learner", 2, 1, 1),
        ("learner", 5, 1, 2),
    ]
    assert chart.figure.layout.yaxis.categoryarray == ("learner", "rollout/0", "rollout/1")
    assert [name for name, _ in chart.legend] == ["generate", "train"]
    assert chart.caption.startswith("The whole run.")
    assert "learner 33%, rollout 67% of this time" in chart.caption


def test_of_a_long_run_the_last_twenty_steps_are_drawn():
    chart = when_pools_worked(spans(steps=60))
    assert {step for *_, step in bars(chart)} == set(range(41, 61))
    assert chart.caption.startswith("The last 20 of 60 steps.")


def test_of_very_many_pieces_of_work_the_last_two_thousand_are_drawn():
    everything = spans(steps=10, pieces=100)
    chart = when_pools_worked(everything)
    assert len(bars(chart)) == 2000
    assert chart.caption.startswith("Only the last 2,000 pieces of work are drawn, those of step 4")
    assert len(chart.figure.to_json()) < 200_000


def test_work_that_the_report_does_not_know_is_drawn_as_other():
    chart = when_pools_worked([Span("driver", "thinking", 1, 0.0, 1.0)])
    assert [name for name, _ in chart.legend] == ["other"]
    assert chart.figure.data[0].customdata[0][0] == "thinking"


def test_only_a_run_with_a_timeline_shows_when_its_pools_worked(run):
    assert "When did each pool work?" not in build_report(run).read_text()
    timeline = Timeline(run)
    for span in spans(steps=3):
        timeline.add(*span)
    assert "When did each pool work?" in build_report(run).read_text()


def command(*arguments):
    line = [sys.executable, "-m", "pipelines.report", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_refuses_a_folder_that_is_no_run_in_one_line(tmp_path):
    done = command(tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{tmp_path} has no metrics.jsonl: give the folder of a run"
    ]


def test_accuracy_is_drawn_against_the_rollouts_and_tokens_spent_by_then(run):
    records = read_metrics(run)
    for total in ("perf/total_rollouts", "perf/total_tokens"):
        chart = accuracy_by_cost(records, total)
        (line,) = chart.figure.data
        spent = [record[total] for record in records if total in record]
        assert line.x[0] == 0
        assert line.x[-1] == spent[-1]
        assert list(line.x) == sorted(line.x)
        assert line.y[-1] == pytest.approx(0.3676, abs=1e-4)
    assert accuracy_by_cost(records[:1], "perf/total_tokens") is None


def test_group_sizes_are_drawn_where_they_were_recorded(run):
    assert group_sizes(read_metrics(run)) is None
    sizes = [{"step": i, "rollout/group_size_mean": 5.0} for i in range(3)]
    assert list(group_sizes(sizes).figure.data[0].y) == [5.0] * 3


def test_groups_without_variance_are_remarked_on_when_they_are_many():
    def steps(equal, wrong, right):
        names = "frac_reward_zero_std", "batch/solve_none", "batch/solve_all"
        return [
            dict(zip(("step", *names), (i, equal, wrong, right), strict=True)) for i in range(30)
        ]

    assert remarks(steps(0.3, 0.2, 0.1)) == []
    (hard,) = remarks(steps(0.5, 0.4, 0.1))
    assert hard == (
        "In the last 10 steps 50.0% of the groups had no variance: 40.0% had no right response, 10.0% had only right "
        "ones. Add easier prompts to the pool."
    )
    (easy,) = remarks(steps(0.5, 0.1, 0.4))
    assert "harder" in easy


@pytest.mark.slow
def test_the_command_takes_a_picture_of_the_whole_page(browser, run):
    image = run / "report.png"
    done = command(run, "--screenshot", image, "--width", 640)
    assert done.stdout.splitlines() == [str(run / "report.html"), str(image)], done.stderr
    width, height = struct.unpack(">II", image.read_bytes()[16:24])
    assert width == 640
    assert height > 2000
