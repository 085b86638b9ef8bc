import csv
import json
import re
import signal
import sys

import numpy as np
import pytest
from rich.console import Console

from dps_ray.beliefs import hmm
from dps_ray.beliefs.priors import initial_belief, prior_counts
from dps_ray.beliefs.states import PARTIAL, SOLVED, UNSOLVED, Observation
from dps_ray.config import settings
from dps_ray.config.files import CONFIGS
from dps_ray.durable import Manifest, ObservationLog, Segment, Storage, claim_epoch, commit
from dps_ray.errors import ConfigError
from dps_ray.selection import methods
from dps_ray.selection.clusters import number_within
from dps_ray.selection.selector import Context
from pipelines.compare import METHODS, main
from pipelines.comparison.drawing import STYLES
from pipelines.comparison.equal_accuracy import at_equal_accuracy
from pipelines.comparison.measures import brier, calibration, confusions, measure, points
from pipelines.comparison.page import _title, build, words
from pipelines.comparison.plan import ENTRIES, entry, pairs, plan, references
from pipelines.comparison.replay import Forecast, replayed
from pipelines.comparison.runner import Done, carry_out, seconds_left
from pipelines.comparison.table import NUMBERS, Line, Mean, table
from pipelines.monitoring.run_log import RunLog
from pipelines.monitoring.timeline import Span

ARITHMETIC = CONFIGS / "arithmetic.yaml"
POOL, STEPS, BATCH, K, PROBE_EVERY = 60, 12, 10, 4, 4
SMALL = (f"loop.steps={STEPS}", f"loop.batch_size={BATCH}", f"rollout.group_size={K}")


def planned(out, *names, seeds=(0,), **more):
    return plan(names, seeds, out, ARITHMETIC, overrides=SMALL, **more)


def found(ids, rates, rng):
    right = rng.binomial(K, rates[ids]).astype(np.int16)
    states = np.select([right == 0, right == K], [UNSOLVED, SOLVED], PARTIAL).astype(np.int8)
    return Observation(ids, states, right, np.full(len(ids), K, np.int16))


def pretend(run):
    """Leaves behind what a real run would: a policy that gets better, and no Ray."""
    config, folder = run.config, run.config.folder
    log, storage = RunLog(folder, []), Storage.at(folder)
    (folder / "config.yaml").write_text(settings.dump(config))
    epoch = claim_epoch(storage)
    rng = np.random.default_rng([run.seed, 7])
    ability = rng.normal(0, 2, POOL)
    labels = (ability > 0).astype(np.int32) if config.method == "dps_pooled" else None
    clusters = number_within(np.arange(POOL), labels, config.seed)
    context = Context(config.seed, POOL, K, clusters=clusters)
    selector = methods.make(config.method, np.arange(POOL), config.selector, context)
    rollouts = 0
    probes = []
    for step in range(STEPS + 1):
        rates = 1 / (1 + np.exp(-ability - 0.2 * step))
        metrics = {}
        if step:
            if step == 1 or step % PROBE_EVERY == 0:
                drawn = np.sort(rng.choice(POOL, 20, replace=False))
                probe = found(drawn, rates, rng)
                columns = {"ids": probe.ids, "successes": probe.successes}
                columns["responses"] = probe.responses
                columns |= {} if labels is None else {"clusters": labels[probe.ids]}
                probes.append({"step": step, **{n: c.tolist() for n, c in columns.items()}})
                rollouts += 20 * K
                metrics["timing_s/probe"] = 0.5
            ids = np.sort(selector.select(BATCH).ids)
            seen = found(ids, rates, rng)
            seen = seen._replace(clusters=None if labels is None else labels[seen.ids])
            ObservationLog(storage, epoch).append(step, seen)
            selector.observe(seen)
            rollouts += BATCH * K
            times = selector.times_sampled(np.arange(POOL))
            metrics |= {
                "tasksample/partial_solve_ratio": float(np.mean(seen.states == PARTIAL)),
                "perf/total_rollouts": rollouts,
                "perf/total_tokens": rollouts * 20,
                "coverage/distinct_prompts": np.count_nonzero(times),
                "timing_s/step": 2.0,
                "timing_s/select": 0.01,
                "timing_s/observe": 0.01,
                "batch/useful_groups": 2.0,
            }
        if step % PROBE_EVERY == 0:
            metrics |= {"val-core/all/acc/mean@4": rates.mean(), "timing_s/eval": 3.0}
            metrics |= {"val-aux/all/acc/low@4": 0.0, "val-aux/all/acc/high@4": 1.0}
        log.step(step, metrics)
    (folder / "probes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in probes))
    commit(
        storage,
        Manifest(
            epoch=epoch,
            step=STEPS,
            files=(),
            lineage=(Segment(epoch, 0),),
            dataset_fingerprint="",
            config_hash="",
            weight_version=STEPS,
            belief_shards=1,
            learner_ranks=1,
            zero_stage=1,
            deepspeed_tag="",
        ),
    )
    counts = dict(zip(*np.unique(times, return_counts=True), strict=True))
    sampled = {str(t): int(n) for t, n in counts.items()}
    summary = {"steps": STEPS, "times_sampled": sampled, "gradient_share": 0.25}
    log.summary({**summary, "command": f"do {run.name}"})
    return selector


@pytest.fixture(scope="module")
def pretended(tmp_path_factory):
    """Runs of three methods, by name, with the selectors that they ended with."""
    runs = planned(tmp_path_factory.mktemp("comparison"), "ds_10", "dps", "mopps", seeds=(0, 1))
    return {run.name: (run, pretend(run)) for run in runs}


def test_all_methods_come_with_the_first_seed_before_any_with_the_second(tmp_path):
    runs = planned(tmp_path, "uniform", "dps", seeds=(3, 5))
    assert [run.name for run in runs] == ["uniform-s3", "dps-s3", "uniform-s5", "dps-s5"]
    assert [run.config.seed for run in runs] == [3, 3, 5, 5]
    assert runs[1].config.folder == tmp_path / "dps-s3"


def test_runs_of_a_seed_differ_in_how_prompts_are_chosen_and_in_nothing_else(tmp_path):
    runs = planned(tmp_path, "uniform", "ds_4", "ds_10", "dps", "mopps", "greso")
    chosen_by = {"method", "folder", "loop.max_gen_batches"}
    first = dict(settings.flatten(runs[0].config))
    for run in runs[1:]:
        here = dict(settings.flatten(run.config))
        both = here.keys() & first.keys()
        assert {key for key in both if here[key] != first[key]} <= chosen_by
        assert all(key.startswith("selector.") for key in here.keys() ^ first.keys())
    assert [run.config.loop.max_gen_batches for run in runs] == [1, 4, 10, 1, 1, 10]
    assert all(run.config.loop.filter_groups for run in runs)


def test_a_method_may_have_its_own_learning_rate_and_an_entry_its_own_settings(tmp_path):
    name, overrides = entry("dps_d9:method=dps,selector.decay=0.9,learner.betas=[0.9,0.99]")
    runs = planned(tmp_path, "dps", name, rates={"dps": "3e-6"}, entries={name: overrides})
    assert [run.config.learner.lr for run in runs] == [3e-6, 2e-4]
    assert runs[1].config.selector.decay == 0.9
    assert runs[1].config.learner.betas == (0.9, 0.99)


def test_a_method_may_have_its_own_number_of_steps(tmp_path):
    name, overrides = entry("k4:method=dps_pooled,rollout.group_size=4,loop.steps=30")
    (a, b, c) = planned(
        tmp_path, "uniform", "dps", name, steps={"dps": "24"}, entries={name: overrides}
    )
    assert [run.config.loop.steps for run in (a, b, c)] == [STEPS, 24, 30]
    assert _title([a, b, c]).endswith("12 to 30 steps of 10 prompts x 4 responses, 1 seed")


def test_every_entry_is_a_run_that_can_be_and_has_a_style(tmp_path):
    runs = plan(list(ENTRIES), (0,), tmp_path, ARITHMETIC)
    assert references(runs) == ["ds_published", "ds_4", "ds_10", "ds_10_k4", "ds_10_rounds"]
    assert ENTRIES.keys() == STYLES.keys()
    assert set(METHODS) < ENTRIES.keys()
    whole = {run.method for run in runs if run.config.loop.refill == "batch"}
    assert whole == {"ds_published"}


def test_a_setting_that_only_some_methods_have_is_for_those(tmp_path):
    names = ["uniform", "dps", "mopps"]
    shared = ["selector.decay=0.9", "selector.rest=2"]
    runs = plan(names, (0,), tmp_path, ARITHMETIC, overrides=shared)
    assert [run.config.selector.rest for run in runs] == [2, 2, 2]
    assert runs[1].config.selector.decay == 0.9
    with pytest.raises(ConfigError, match=r"selector.decay is a setting of dps, dps_pooled"):
        plan(["uniform", "mopps"], (0,), tmp_path, ARITHMETIC, overrides=shared)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"methods": ["dsp"]}, "--methods dsp: write one of uniform"),
        ({"methods": ["dps"], "rates": {"mopps": "1"}}, "--lr mopps: it is not among"),
        ({"methods": ["dps"], "steps": {"mopps": "1"}}, "--steps mopps: it is not among"),
        ({"methods": ["dps"], "steps": {"dps": "many"}}, "loop.steps"),
        ({"methods": ["dps"], "overrides": ["seed=3"]}, "use --seeds"),
        ({"methods": ["dps"], "overrides": ["loop.stesp=3"]}, "did you mean loop.steps"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_what_to_write(tmp_path, wrong, said):
    with pytest.raises(ConfigError, match=said):
        plan(seeds=[0], out=tmp_path, file=ARITHMETIC, **wrong)


def test_seeds_that_are_no_numbers_are_refused_with_what_to_write(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--seeds", "0,x"])
    assert "'0,x': write whole numbers, such as 0,1,2" in capsys.readouterr().err


def test_an_entry_that_is_not_written_so_is_refused():
    for text in ("dps:method=dps", "mine", "mine:decay"):
        with pytest.raises(ConfigError, match="--entry"):
            entry(text)


@pytest.mark.parametrize("text", ["dps", "dps=", "=120"])
def test_steps_that_are_not_written_so_are_refused(text):
    with pytest.raises(ConfigError, match=rf"--steps {text}: write method=value, such as dps=120"):
        pairs("--steps", [text])


def python(code):
    return lambda run: [sys.executable, "-c", code, str(run.config.folder), run.name]


FINISH = f"""
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
(folder / "summary.json").write_text('{{"steps": {STEPS}}}')
with open(folder.parent / "done", "a") as done: done.write(sys.argv[2] + "\\n")
"""


def test_finished_runs_are_left_as_they_are_and_cut_ones_go_on(tmp_path):
    runs = planned(tmp_path, "uniform", "dps", "mopps")
    for run, steps in zip(runs, (STEPS, STEPS - 1), strict=False):
        run.config.folder.mkdir()
        (run.config.folder / "summary.json").write_text(json.dumps({"steps": steps}))
    assert carry_out(runs, python(FINISH), Console(quiet=True)) == []
    assert (tmp_path / "done").read_text().split() == ["dps-s0", "mopps-s0"]


def test_a_run_that_fails_is_told_with_its_last_words_and_the_others_go_on(tmp_path):
    runs = planned(tmp_path, "uniform", "dps")
    fail = "import sys\nif sys.argv[2] == 'uniform-s0': sys.exit('no memory')\n"
    failures = carry_out(runs, python(fail + FINISH), Console(quiet=True))
    assert [failure.run.name for failure in failures] == ["uniform-s0"]
    assert failures[0].why.startswith("exit code 1: no memory (see ")
    assert (tmp_path / "done").read_text().split() == ["dps-s0"]


def test_a_run_that_was_stopped_is_not_taken_for_finished(tmp_path):
    (failure,) = carry_out(planned(tmp_path, "dps"), python("pass"), Console(quiet=True))
    assert failure.why.startswith("it was stopped")


def test_stopping_lets_the_run_in_hand_save_itself_and_starts_no_other(tmp_path):
    stop = """
import os, pathlib, signal, sys
def save(*_): sys.exit(pathlib.Path(sys.argv[1] + ".saved").touch())
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.SIGINT)
while True: signal.pause()
"""
    # Ignored, where the tests themselves were started in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            carry_out(planned(tmp_path, "uniform", "dps"), python(stop), Console(quiet=True))
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in tmp_path.glob("*.saved")] == ["uniform-s0.saved"]


def test_a_folder_made_with_other_settings_is_refused_before_anything_starts(tmp_path):
    runs = planned(tmp_path, "uniform", "dps")
    (other,) = planned(tmp_path, "dps", rates={"dps": "5e-5"})
    other.config.folder.mkdir()
    (other.config.folder / "config.yaml").write_text(settings.dump(other.config))
    with pytest.raises(ConfigError, match=r"made with learner\.lr=5e-05, and dps-s0 has"):
        carry_out(runs, python(FINISH), Console(quiet=True))
    assert not (tmp_path / "done").exists()


def test_time_left_is_told_by_the_pace_of_the_run_else_its_method_else_all(tmp_path):
    a0, b0, a1, c0 = (
        planned(tmp_path, name, seeds=(seed,))[0]
        for name, seed in (("dps", 0), ("ds_10", 0), ("dps", 1), ("mopps", 0))
    )
    new = Done(0, None)
    done = {a0.name: Done(STEPS, 2.0), b0.name: Done(STEPS - 5, 6.0), a1.name: new, c0.name: new}
    assert seconds_left([b0, a1, c0], done) == 5 * 6.0 + STEPS * 2.0 + STEPS * 4.0
    assert seconds_left([a1], {a1.name: new}) is None


def test_dps_forecasts_are_those_of_the_core_swept_over_all_prompts(pretended):
    run, selector = pretended["dps-s1"]
    replay = replayed(run.config.folder)
    prior, decay = prior_counts("uniform"), run.config.selector.decay
    swept = hmm.initial_beliefs(POOL, initial_belief(None))
    probed = [f for f in replay.forecasts if f.on == "probe"]
    assert [f.step for f in probed] == [1, 4, 8, 12]
    probes = [json.loads(line) for line in (run.config.folder / "probes.jsonl").open()]
    for step, seen in replay.observations.items():
        for forecast in replay.forecasts:
            if forecast.step == step:
                ids = seen.ids
                if forecast.on == "probe":
                    ids = next(line["ids"] for line in probes if line["step"] == step)
                np.testing.assert_allclose(forecast.predicted, swept.predicted.T[ids], atol=1e-6)
        swept = hmm.step(swept, seen.ids, seen.states, prior, decay)
    last = replay.observations[STEPS].ids
    np.testing.assert_array_equal(replay.selector.predicted(last), selector.predicted(last))


def test_mopps_forecasts_come_from_its_beta_and_dynamic_sampling_has_none(pretended):
    first = replayed(pretended["mopps-s0"][0].config.folder).forecasts[0]
    np.testing.assert_allclose(first.predicted[:, PARTIAL], 1 - 2 / (K + 1))
    assert replayed(pretended["ds_10-s0"][0].config.folder).forecasts == []


def test_pooled_forecasts_know_the_clusters_of_prompts_that_only_a_probe_drew(tmp_path):
    (run,) = planned(tmp_path, "pooled", entries={"pooled": ["method=dps_pooled"]})
    selector, replay = pretend(run), replayed(run.config.folder)
    ids = np.unique(np.concatenate([o.ids for o in replay.observations.values()]))
    np.testing.assert_array_equal(replay.selector.predicted(ids), selector.predicted(ids))
    last = [forecast for forecast in replay.forecasts if forecast.on == "probe"][-1]
    assert (
        len(np.unique(last.predicted.round(9), axis=0)) > 2
    )  # rows of some, two beliefs of the rest


def test_without_probes_the_batch_alone_is_forecast(pretended, tmp_path):
    (run,) = planned(tmp_path, "dps")
    pretend(run)
    (run.config.folder / "probes.jsonl").unlink()
    assert {f.on for f in replayed(run.config.folder).forecasts} == {"batch"}


def test_a_run_is_charged_for_probes_and_not_for_evaluations(pretended):
    numbers = measure("dps", 0, pretended["dps-s0"][0].config.folder)
    assert [p.step for p in numbers.curves] == list(range(STEPS + 1))
    assert [p.step for p in numbers.curves if p.accuracy is not None] == [0, 4, 8, 12]
    (total,) = numbers.runs
    assert total.rollouts == STEPS * BATCH * K + 4 * 20 * K
    assert total.seconds == STEPS * 2.0 + 4 * 0.5
    assert total.choosing == pytest.approx(0.01)


def test_coverage_counts_distinct_prompts_and_what_two_batches_share(pretended):
    run, _ = pretended["dps-s0"]
    rows = measure("dps", 0, run.config.folder).coverage
    batches = [set(o.ids.tolist()) for o in replayed(run.config.folder).observations.values()]
    assert rows[0].overlap is None
    assert rows[4].overlap == len(batches[4] & batches[3]) / BATCH
    assert rows[-1].distinct == len(set.union(*batches))


def test_every_forecast_is_in_one_cell_of_one_third(pretended):
    numbers = measure("dps", 0, pretended["dps-s0"][0].config.folder)
    batch = [cell for cell in numbers.confusion if cell.on == "batch"]
    thirds = {t: sum(c.prompts for c in batch if c.third == t) for t in ("early", "middle", "late")}
    assert thirds == dict.fromkeys(("early", "middle", "late"), STEPS // 3 * BATCH)


def forecast(step, p, states):
    p = np.array(p)
    rest = (1 - p) / 2
    return Forecast(step, "batch", np.stack([rest, p, rest], axis=1), np.array(states, np.int8))


def test_a_cell_says_what_was_predicted_and_what_was_seen():
    cells = confusions(("dps", 0), [forecast(1, [0.9, 0.8], [PARTIAL, SOLVED])], steps=3)
    counted = {(c.third, c.predicted, c.seen): c.prompts for c in cells if c.prompts}
    assert counted == {("early", "partial", "partial"): 1, ("early", "partial", "solved"): 1}


def test_calibration_holds_each_bins_means_and_the_brier_score():
    forecasts = [
        forecast(1, [0.9, 0.9, 1.0], [PARTIAL, SOLVED, PARTIAL]),
        forecast(2, [0.25], [UNSOLVED]),
    ]
    low, high = calibration(("dps", 0), forecasts)
    assert (low.low, low.prompts, low.observed) == (0.2, 1, 0.0)
    assert (high.low, high.prompts, high.observed) == (0.9, 3, pytest.approx(2 / 3))
    assert high.predicted == pytest.approx(2.8 / 3)
    score, constant = brier([low, high])
    assert score == pytest.approx((0.1**2 + 0.9**2 + 0.0 + 0.25**2) / 4)
    assert constant == 0.25


def test_the_table_measures_everyone_by_dynamic_samplings_accuracy(pretended):
    curves, totals = [], []
    for run, _ in pretended.values():
        numbers = measure(run.method, run.seed, run.config.folder)
        curves += numbers.curves
        totals += numbers.runs
    equal = at_equal_accuracy(curves, ["ds_10"])
    lines = {line.method: line for line in table(totals, equal, "ds_10")}
    assert lines["ds_10"].share == lines["ds_10"].tokens_share == 1
    ends = [t.accuracy for t in totals if t.method == "dps"]
    mean, error = lines["dps"].numbers["accuracy"]
    assert mean == pytest.approx(np.mean(ends))
    assert error == pytest.approx(abs(ends[0] - ends[1]) / 2)
    behind = [t for t in totals if t.method != "ds_10"]
    nothing = table(behind, at_equal_accuracy(curves, []), None)
    assert [(line.share, line.reached) for line in nothing] == [(None, 0), (None, 0)]


def test_a_run_says_what_its_groups_cost_in_training(pretended):
    run, _ = pretended["dps-s0"]
    (total,) = measure("dps", 0, run.config.folder).runs
    seen = replayed(run.config.folder).observations.values()
    mixed = sum((found.states == PARTIAL).sum() for found in seen)
    assert total.group_size == K
    assert total.per_mixed == STEPS * BATCH * K / mixed
    assert total.per_trained == STEPS * BATCH * K / (STEPS * 2)
    assert total.wasted == 0.75


def test_seconds_of_engines_are_those_of_batches_and_probes():
    def span(name, step, seconds, pool="rollout/0"):
        return Span(pool, name, step, 100.0, 100.0 + seconds)

    spans = [
        span("generate", 1, 2.0),
        span("generate", 1, 3.0, "rollout/1"),
        span("probe", 2, 1.0),
        span("eval", 2, 7.0),
        span("train", 2, 7.0, "learner"),
    ]
    records = [{"step": 0}, {"step": 1}, {"step": 2, "perf/total_rollouts": 8}]
    found = points(("dps", 0), records, spans)
    assert [point.engine_seconds for point in found] == [0, 5, 6]
    assert [point.engine_seconds for point in points(("dps", 0), records)] == [None] * 3


@pytest.mark.slow
def test_the_report_is_one_page_that_needs_no_network_with_csv_and_figures(pretended, tmp_path):
    runs = [run for run, _ in pretended.values()]
    page = build(runs, {"recency-s0": "exit code 1: <no memory>"}, tmp_path, "do it").read_text()
    assert "recency-s0 (exit code 1: &lt;no memory&gt;)" in page
    assert "do dps-s1" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)
    names = {"1-accuracy", "1-equal-accuracy", "2-effective-ratio", "2-learned", "4-coverage"}
    names |= {"3-prediction", "3-confusion", "3-calibration"}
    assert {path.stem for path in tmp_path.glob("*.png")} == names
    assert page.count("<svg") == 8
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(runs) * (STEPS + 1)
    assert rows[1]["accuracy"] == ""
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + 3
    assert "rollouts, of DS, cap 10" in (tmp_path / "equal.md").read_text()
    with (tmp_path / "equal_accuracy.csv").open() as file:
        assert [(row["method"], row["cost"]) for row in csv.DictReader(file)] == [
            (method, cost)
            for method in ("ds_10", "dps", "mopps")
            for cost in ("rollouts", "tokens")
        ]


def test_a_report_of_methods_that_predict_nothing_has_no_figures_of_prediction(pretended, tmp_path):
    build([pretended["ds_10-s0"][0]], {}, tmp_path, "")
    assert sorted(path.stem[0] for path in tmp_path.glob("*.svg")) == ["1", "2", "2", "4"]


def test_a_report_without_a_finished_run_is_refused(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--report"]) == 2
    assert "is finished" in capsys.readouterr().err


def test_the_page_says_how_far_a_method_is_from_uniform_sampling_in_standard_errors():
    def ended(method, accuracy, effective, share):
        numbers = dict.fromkeys(NUMBERS, Mean(1000.0, 0.0))
        numbers |= {"accuracy": Mean(accuracy, 0.01), "effective": Mean(effective, 0.01)}
        return Line(method, 3, numbers, to_target=None, share=share, reached=0)

    said = words(
        [
            ended("uniform", 0.40, 0.3, None),
            ended("ds_10", 0.60, 0.3, 1.0),
            ended("dps_pooled", 0.48, 0.6, 0.45),
        ],
        "ds_10",
    )
    assert (
        "DPS pooled ends 8.0 points above uniform sampling, 5.7 standard errors of the difference, "
        "with 100% of its rollouts and 2.00 times its effective ratio." in said
    )
    assert any("DS, cap 10 ends at 60.0% ± 1.0" in one and "with 45% of" in one for one in said)


def test_a_folder_with_a_hash_in_its_name_is_every_runs_own(tmp_path):
    (run,) = planned(tmp_path / "a #b", "dps")
    assert run.config.folder.parent == tmp_path / "a #b"


def test_a_folder_that_cannot_be_is_refused_before_any_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "taken").write_text("")
    assert main(["--out", "~/taken/here"]) == 2
    assert capsys.readouterr().err.startswith(f"error: --out {tmp_path}/taken/here cannot be")
