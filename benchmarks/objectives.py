"""Compares selection methods under several objectives, in real training on the built-in task.

    python -m benchmarks.objectives --seeds 0,1
    python -m benchmarks.objectives --objectives rloo --methods uniform,dps_pooled --out runs/objectives
    python -m benchmarks.objectives --report

All runs have the same start policy, prompts, learning rate and number of rollouts: 64 steps of 16 prompts x 8 responses.
No group is filtered, so that each objective trains on the groups that it can learn from. Settings that the terms leave open
are those published for the objective. Runs are executed one after the other, and those that are done are kept; two commands
with different seeds can run at a time. Printed are the accuracy on held-out prompts (mean of the last three evaluations), the
share of partial groups, and the rollouts that a method takes to the accuracy in which uniform selection ends, as a share of
uniform's own.
`objectives.svg` in the folder `report` shows the accuracy over the rollouts. docs/objectives.md has what was measured.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console

from dps_ray.config.files import config_file
from dps_ray.errors import ConfigError, DPSError
from dps_ray.paths import path_option
from pipelines.command.command_line import seeds_option
from pipelines.command.exits import refused
from pipelines.comparison.drawing import STYLES, legend, line, matplotlib_set_up, panels_of, save
from pipelines.comparison.equal_accuracy import Seeds, jackknife, seeds_by_method, shared
from pipelines.comparison.measures import measure
from pipelines.comparison.plan import Run, plan
from pipelines.comparison.rows import Numbers, Point, Total
from pipelines.comparison.runner import carry_out, is_finished
from pipelines.monitoring.accuracy_curve import mean_points

TERMS = (
    "loop.steps=64",
    "loop.batch_size=16",
    "loop.filter_groups=false",
    "rollout.group_size=8",
    "rollout.threads=1",
    "learner.threads=1",
    "eval.every=8",
    "probe.every=0",
)
# What differs from the published defaults. GSPO's clips are for a model of 30B parameters; here the mean log-ratio of a batch is
# thirty times as large.
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "grpo": (),
    "rloo": (),
    "reinforce_plus_plus": (),
    "gspo": ("objective.clip_low=0.03", "objective.clip_high=0.04"),
    "ppo": ("learner.critic.lr=2e-4",),
}
METHODS = ("uniform", "dps", "dps_pooled")


def main(arguments: Sequence[str]) -> int:
    """Runs the program and returns its exit code. 0: all runs are finished. 1: some are missing. 2: wrong input. 130:
    stopped."""
    options = _parse(arguments)
    console = Console()
    try:
        return compare(options, console)
    except (DPSError, OSError) as error:
        return refused(error)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130


def compare(options: argparse.Namespace, console: Console) -> int:
    file = config_file("arithmetic")
    runs = _runs(options, file)

    def command_of(run: Run) -> list[str]:
        program = [sys.executable, "-m", "pipelines.grpo_dps"]
        return [*program, "--config", str(file), *run.overrides]

    failures = [] if options.report else carry_out(runs, command_of, console)
    finished = [run for run in runs if is_finished(run)]
    for failure in failures:
        print(f"{failure.run.name} failed: {failure.why}", file=sys.stderr)
    if not finished:
        raise ConfigError(f"no run in {options.out} is finished: there is nothing to report")
    numbers = Numbers()
    for run in finished:
        numbers.add(measure(run.method, run.seed, run.config.folder))
    print(table(numbers))
    folder = options.out / "report"
    folder.mkdir(exist_ok=True)
    numbers.write(folder)
    draw(numbers, folder)
    return 0 if len(finished) == len(runs) else 1


def _runs(options: argparse.Namespace, file: Path) -> list[Run]:
    entries = {
        f"{objective}.{method}": (
            *TERMS,
            f"method={method}",
            f"objective.name={objective}",
            *OBJECTIVES[objective],
            *options.overrides,
        )
        for objective in options.objectives
        for method in options.methods
    }
    return plan(list(entries), options.seeds, options.out, file, entries=entries)


def table(numbers: Numbers) -> str:
    """One row for each objective and method, in Markdown: means over seeds with their standard deviations."""
    seeds = seeds_by_method(numbers.curves)
    totals: dict[str, list[Total]] = {}
    for total in numbers.runs:
        totals.setdefault(total.method, []).append(total)
    lines = [
        "| objective | selection | accuracy | partial groups | distinct prompts | rollouts to uniform's accuracy |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, each in totals.items():
        objective, _, method = name.partition(".")
        found = "" if method == "uniform" else _to_uniform(seeds, name, f"{objective}.uniform")
        accuracies = [_late_accuracy(points) for points in seeds[name]]
        lines.append(
            f"| `{objective}` | `{method}` | {_percent(accuracies)} | "
            f"{_percent([t.effective for t in each])} | {fmean(t.distinct for t in each):,.0f} | {found} |"
        )
    return "\n".join(lines)


def _late_accuracy(points: Sequence[Point]) -> float:
    """The mean of a run's last three evaluations, which is less a matter of chance than the last alone."""
    return fmean([point.accuracy for point in points if point.accuracy is not None][-3:])


def _to_uniform(seeds: Mapping[str, Seeds], name: str, uniform: str) -> str:
    """The rollouts to the accuracy of uniform selection as a share of its own, with the standard error over seeds."""
    if uniform not in seeds:
        return ""
    share = shared(seeds[name], seeds[uniform], "rollouts").share
    if share is None:
        return "not reached"
    error = jackknife(seeds[name], seeds[uniform], "rollouts")
    return f"{share:.0%}" + ("" if error is None else f" ± {100 * error:.0f}")


def _percent(values: Sequence[float]) -> str:
    """The mean in percent, and the deviation between seeds where there are several."""
    mean = f"{100 * fmean(values):.1f}%"
    return mean if len(values) == 1 else f"{mean} ± {100 * stdev(values):.1f}"


def draw(numbers: Numbers, folder: Path) -> None:
    """Saves accuracy over rollouts, means over seeds, in a panel for each objective."""
    seeds = seeds_by_method(numbers.curves)
    objectives = list(dict.fromkeys(name.partition(".")[0] for name in seeds))
    methods = list(dict.fromkeys(name.partition(".")[2] for name in seeds))
    with matplotlib_set_up():
        figure, (panels,) = panels_of(1, len(objectives), (2.1 * len(objectives) + 0.6, 2.9))
        for axes, objective in zip(panels, objectives, strict=True):
            for method in methods:
                if each := seeds.get(f"{objective}.{method}"):
                    costs, accuracies = zip(*mean_points(each), strict=True)
                    axes.plot(costs, accuracies, **line(STYLES[method]))
            axes.set(title=objective, xlabel="rollouts", ylim=(0.15, None))
        panels[0].set_ylabel("held-out accuracy")
        for axes in panels[1:]:
            axes.sharey(panels[0])
        legend(figure, {method: STYLES[method] for method in methods})
        save(figure, "objectives", "Objectives", "", folder)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.objectives",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--objectives",
        type=_names_from(OBJECTIVES),
        default=list(OBJECTIVES),
        metavar="A,B",
        help=f"({','.join(OBJECTIVES)})",
    )
    parser.add_argument(
        "--methods",
        type=_names_from(METHODS),
        default=list(METHODS),
        metavar="A,B",
        help=f"({','.join(METHODS)})",
    )
    parser.add_argument(
        "--seeds", type=seeds_option, default=[0, 1], metavar="A,B", help="seeds of the runs (0,1)"
    )
    parser.add_argument(
        "--out",
        type=path_option,
        default=Path("runs/objectives"),
        metavar="FOLDER",
        help="output folder for the runs and the report (runs/objectives)",
    )
    parser.add_argument(
        "--report", action="store_true", help="start no runs; report those that are done"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of all runs, which override the terms",
    )
    return parser.parse_args(arguments)


def _names_from(known: Collection[str]) -> Callable[[str], list[str]]:
    """A `type` for `argparse`: names with commas between, each of these."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}: write one of {', '.join(known)}")
        return found

    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
