import io

import pytest
from rich.console import Console

from pipelines.monitoring.view import LineView, PanelView, RunSoFar, make_view, sparkline


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def lines_of(console):
    return console.file.getvalue().splitlines()


def plain():
    return Console(file=io.StringIO(), width=80, _environ={})


def terminal():
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=True, _environ={})


def trained(step, **changed):
    return {
        "training/step": step,
        "critic/rewards/mean": 0.41,
        "tasksample/partial_solve_ratio": 0.72,
        "perf/total_rollouts": 512.0 * step,
        "perf/throughput": 9120.4,
        "timing_s/generate": 1.8,
        "timing_s/train": 0.9,
        "timing_s/select": 0.1,
        "timing_s/step": 2.8,
        **changed,
    }


EVALUATED = {
    "val-core/all/acc/mean@1": 0.375,
    "val-aux/all/acc/low@1": 0.33,
    "val-aux/all/acc/high@1": 0.42,
}


def drawn(view):
    """The panel as a person at an 80-column terminal reads it."""
    reader = Console(file=io.StringIO(), width=80, _environ={})
    reader.print(view.panel())
    return lines_of(reader)


def test_a_step_is_one_aligned_line():
    console = plain()
    view = make_view(60, console)
    view.step(9, trained(9))
    view.step(12, trained(12, **{"probe/partial_solve_ratio": 0.38}))
    assert lines_of(console) == [
        "step  9/60  reward 0.41  effective 0.72  rollouts   4,608    9,120 tok/s   2.8 s  eta 2m23s",
        "step 12/60  reward 0.41  effective 0.72 (uniform 0.38)  rollouts   6,144    9,120 tok/s   2.8 s  eta 2m14s",
    ]


def test_an_evaluation_is_a_line_with_its_interval_and_no_step_of_its_own():
    console = plain()
    view = make_view(60, console)
    view.step(0, EVALUATED)
    view.step(10, EVALUATED)
    line = "eval        held-out accuracy 37.5% (95% interval 33.0% to 42.0%)"
    assert lines_of(console) == [line, line]


def test_the_last_step_has_no_time_left():
    console = plain()
    make_view(60, console).step(60, trained(60))
    assert lines_of(console)[0].endswith("2.8 s")


def test_a_step_that_lacks_metrics_shows_those_it_has():
    console = plain()
    make_view(60, console).step(3, {"training/step": 3})
    assert lines_of(console) == ["step  3/60  rollouts       0"]


def test_plain_lines_hold_no_control_characters():
    console = plain()
    with make_view(2, console, Clock()) as view:
        view.start("dps on arithmetic", ["folder runs/arithmetic"])
        view.phase("generate")
        view.step(1, {**trained(1), **EVALUATED})
        view.message("step 1: one group skipped")
        view.finish("Done.")
    text = console.file.getvalue()
    assert all(character == "\n" or character.isprintable() for character in text)
    assert text.isascii()


def test_long_messages_are_not_wrapped_in_a_file():
    console = plain()
    make_view(60, console).message("word " * 40)
    assert len(lines_of(console)) == 1


def test_progress_is_told_every_five_seconds_at_most():
    console, clock = plain(), Clock()
    view = make_view(60, console, clock)
    view.phase("start policy")
    for second in range(13):
        clock.now = float(second)
        view.progress(100 * second, 1200, "steps")
    assert lines_of(console) == [
        "  start policy  500/1,200 steps",
        "  start policy  1,000/1,200 steps",
    ]


def test_a_short_phase_tells_no_progress():
    console, clock = plain(), Clock()
    view = make_view(60, console, clock)
    for phase in range(10):
        clock.now = 4.0 * phase
        view.phase("generate")
        view.progress(1, 2, "rollouts")
    assert lines_of(console) == []


def test_the_time_left_follows_the_median_of_the_recent_steps():
    run = RunSoFar(total_steps=100)
    for step in range(1, 11):
        run.add(step, {"timing_s/step": 100.0})
    for step in range(11, 31):
        run.add(step, {"timing_s/step": 50.0 if step == 20 else 2.0})
    assert run.eta() == "eta 2m20s"


def test_a_resumed_run_counts_from_its_checkpoint():
    view = make_view(60, terminal(), Clock())
    view.rewind(40)
    assert "step 40/60" in drawn(view)[1]


def test_phases_beyond_the_four_longest_are_other():
    run = RunSoFar(total_steps=1)
    seconds = {
        "generate": 5.0,
        "train": 2.0,
        "eval": 1.0,
        "probe": 1.0,
        "select": 0.5,
        "score": 0.5,
    }
    run.add(1, {f"timing_s/{phase}": s for phase, s in seconds.items()})
    shares = dict(run.phase_shares())
    assert shares["generate"] == 0.5
    assert shares["other"] == pytest.approx(0.1)
    assert set(shares) == {"generate", "train", "eval", "probe", "other"}


def test_a_terminal_gets_the_panel_and_everything_else_gets_lines():
    assert isinstance(make_view(60, terminal()), PanelView)
    assert isinstance(make_view(60, plain()), LineView)


def test_a_terminal_that_cannot_draw_gets_lines():
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    latin = Console(file=ascii_only, force_terminal=True, _environ={})
    assert isinstance(make_view(60, dumb), LineView)
    assert isinstance(make_view(60, latin), LineView)


def test_the_panel_shows_what_the_run_is_about():
    clock = Clock()
    view = make_view(60, terminal(), clock)
    view.phase("generate")
    view.progress(256, 512, "rollouts")
    clock.now = 12.0
    view.step(12, {**trained(12), **EVALUATED, "probe/partial_solve_ratio": 0.38})
    panel = "\n".join(drawn(view))
    for words in (
        "step 12/60",
        "eta 2m14s",
        "generate  256/512 rollouts  12s",
        "rollouts  6,144    9,120 tokens/s",
        "reward    0.41",
        "accuracy  0.38",
        "effective 0.72",
        "uniform   0.38",
        "generate 64%   train 32%   select 4%",
    ):
        assert words in panel


def test_the_panel_keeps_its_eight_lines_and_eighty_columns():
    view = make_view(1000, terminal(), Clock())
    heights = set()
    for step in range(0, 1001, 50):
        if step:
            view.step(
                step, {**trained(step), **EVALUATED, "timing_s/eval": 3.0, "timing_s/probe": 1.0}
            )
        view.phase("making the start policy of the arithmetic task")
        view.progress(step, 1_000_000, "steps, loss 0.25")
        lines = drawn(view)
        heights.add(len(lines))
        assert max(map(len, lines)) <= 80
    assert heights == {8}


def test_the_bar_of_times_fills_its_line():
    view = make_view(60, terminal(), Clock())
    view.step(1, trained(1))
    (bar,) = (line for line in drawn(view) if "time  " in line)
    assert bar.count("█") == 80 - 4 - len("time      ")


def test_the_screen_is_given_back_when_the_run_fails():
    console = terminal()
    view = make_view(60, console)

    def fail():
        with view:
            view.start("dps", [])
            raise RuntimeError("engine lost")

    with pytest.raises(RuntimeError):
        fail()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    text = console.file.getvalue()
    assert hide in text
    assert text.rindex(show) > text.rindex(hide)


def test_the_closing_words_follow_the_panel():
    console = terminal()
    with make_view(60, console) as view:
        view.start("dps", ["folder runs/a"])
        view.step(60, trained(60))
        view.finish("Accuracy rose.\nTrained model: runs/a")
    assert lines_of(console)[-2:] == ["Accuracy rose.", "Trained model: runs/a"]


def test_a_sparkline_spans_its_own_range_unless_given_one():
    assert sparkline([4.0, 5.0, 6.0], 10) == "▁▅█"
    assert sparkline([0.0, 0.5, 1.0], 10, 0, 1) == "▁▅█"
    assert sparkline([0.5, 0.5], 10, 0, 1) == "▅▅"


def test_a_long_series_is_squeezed_into_the_sparkline_whole():
    rising = [step / 1000 for step in range(1000)]
    assert sparkline(rising, 8) == "▁▂▃▄▅▆▇█"


def test_a_flat_or_empty_series_has_a_sparkline_too():
    assert sparkline([0.3, 0.3], 5) == "▁▁"
    assert sparkline([], 5) == ""
