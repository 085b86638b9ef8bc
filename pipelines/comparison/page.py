"""The report of a comparison: CSV files, figures, a table in Markdown, and one page that needs no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from pipelines.comparison.drawing import label
from pipelines.comparison.equal_accuracy import at_equal_accuracy, at_equal_rollouts, strongest
from pipelines.comparison.equal_table import equal_table, markdown
from pipelines.comparison.figures import draw
from pipelines.comparison.measures import measure
from pipelines.comparison.plan import Run, references
from pipelines.comparison.rows import Numbers
from pipelines.comparison.table import Line, Mean, table, write_table
from pipelines.monitoring.run_log import read_summary

PREDICTING = ("dps", "dps_pooled", "dps_pooled_refill")  # the methods that the page is about
HEADER = (
    "method",
    "accuracy in the end",
    "rollouts",
    "tokens",
    "seconds",
    "effective ratio",
    "distinct prompts",
    "responses a group",
    "rollouts for a mixed group",
    "rollouts for a group trained on",
    "responses wasted",
    "rollouts to DS's accuracy",
    "tokens to DS's accuracy",
    "rollouts to DS's accuracy, of DS's",
    "select and observe, of step time",
)


def build(runs: Sequence[Run], missing: Mapping[str, str], folder: Path, command: str) -> Path:
    """Write the report of these finished runs into a folder; returns the page.

    missing: why there is nothing of the other runs, by name.
    command: what was typed.

    Raises:
        DataError, CheckpointError: a run's folder is damaged.
        ResourceError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = Numbers()
    for run in _by_method(runs):
        numbers.add(measure(run.method, run.seed, run.config.folder))
    dynamic = references(runs)
    reference = strongest(numbers.curves, dynamic)
    numbers.equal_accuracy = at_equal_accuracy(numbers.curves, dynamic)
    numbers.equal_rollouts = at_equal_rollouts(numbers.curves, dynamic)
    lines = table(numbers.runs, numbers.equal_accuracy, reference)
    numbers.write(folder)
    write_table(folder / "table.csv", lines)
    rows = [cells(line, reference) for line in lines]
    equal = equal_table(numbers, reference)
    (folder / "table.md").write_text(markdown([HEADER, *rows]))
    (folder / "equal.md").write_text(markdown(equal))
    figures = draw(numbers, folder)
    page = folder / "comparison.html"
    page.write_text(
        _template().render(
            title=_title(runs),
            words=words(lines, reference),
            header=HEADER,
            rows=rows,
            reference=label(reference or "DS"),
            equal=equal,
            figures=[figure._replace(svg=Markup(_inline(figure.svg))) for figure in figures],
            missing=missing,
            command=command,
            commands=[(run.name, _command(run)) for run in runs],
        )
    )
    return page


def cells(line: Line, reference: str | None) -> list[str]:
    """A row of the table under `HEADER`. `reference`: the method whose accuracy is the others' target."""
    n = line.numbers
    share = "not reached" if line.share is None else f"{line.share:.0%}"
    if line.share_error is not None:
        share += f" ± {100 * line.share_error:.0f}"
    if line.method != reference:
        share += f" ({line.reached} of {line.seeds} seeds)"
    return [
        label(line.method),
        _share(n["accuracy"], 1),
        _count(n["rollouts"]),
        _count(n["tokens"]),
        _count(n["seconds"]),
        _share(n["effective"], 1),
        _count(n["distinct"]),
        _count(n["group_size"], 1),
        _count(n["per_mixed"], 1),
        _count(n["per_trained"], 1),
        _share(n["wasted"], 1),
        _count(Mean(line.to_target, None)),
        _count(Mean(line.tokens_to_target, None)),
        share,
        _share(n["choosing"], 2),
    ]


def words(lines: Sequence[Line], reference: str | None) -> list[str]:
    """What the table says about the targets, a sentence each; nothing where it cannot be said."""
    by = {line.method: line for line in lines}
    known = [line for line in lines if line.numbers["accuracy"].mean is not None]
    if not known:
        return []
    best = max(known, key=lambda line: line.numbers["accuracy"].mean or 0.0)
    said = [
        f"{label(best.method)} has the highest accuracy in the end, {_share(best.numbers['accuracy'], 1)}, "
        f"with {_count(best.numbers['rollouts'])} rollouts."
    ]
    for ours in (by[name] for name in PREDICTING if name in by):
        said += _compared(ours, by.get("uniform"), by.get(reference or ""))
    return said


def _compared(ours: Line, uniform: Line | None, reference: Line | None) -> list[str]:
    """A method that predicts, beside uniform selection and Dynamic Sampling."""
    name, own, said = label(ours.method), ours.numbers, []
    if uniform and uniform is not ours:
        theirs = uniform.numbers
        mine, other = own["accuracy"], theirs["accuracy"]
        if mine.mean is not None and other.mean is not None:
            ahead = mine.mean - other.mean
            error = _in_errors(ahead, mine, other)
            said.append(
                f"{name} ends {100 * abs(ahead):.1f} points {'above' if ahead >= 0 else 'below'} uniform sampling"
                f"{error}, with {_of(own, theirs, 'rollouts'):.0%} of its rollouts and "
                f"{_of(own, theirs, 'effective'):.2f} times its effective ratio."
            )
    if reference and reference.numbers["accuracy"].mean is not None:
        reached = "does not reach that"
        if ours.share is not None:
            reached = f"reaches that with {ours.share:.0%} of the rollouts it took"
        ends = _share(reference.numbers["accuracy"], 1)
        said.append(f"{label(reference.method)} ends at {ends}; {name} {reached}.")
    said.append(
        f"Selection and belief update of {name} take {_share(own['choosing'], 2)} of step time."
    )
    return said


def _in_errors(ahead: float, ours: Mean, theirs: Mean) -> str:
    """How many standard errors of the difference that is; nothing where either has none."""
    if not ours.error or not theirs.error:
        return ""
    error = np.hypot(ours.error, theirs.error)
    return f", {abs(ahead) / error:.1f} standard errors of the difference"


def _by_method(runs: Sequence[Run]) -> list[Run]:
    """All seeds of a method together, methods in their order."""
    methods = list(dict.fromkeys(run.method for run in runs))
    return sorted(runs, key=lambda run: methods.index(run.method))


def _share(value: Mean, digits: int) -> str:
    """In percent, with the standard error: 51.2% ± 0.4."""
    if value.mean is None:
        return "-"
    error = "" if value.error is None else f" ± {100 * value.error:.{digits}f}"
    return f"{100 * value.mean:.{digits}f}%{error}"


def _count(value: Mean, digits: int = 0) -> str:
    if value.mean is None:
        return "-"
    error = "" if value.error is None else f" ± {value.error:,.{digits}f}"
    return f"{value.mean:,.{digits}f}{error}"


def _of(ours: Mapping[str, Mean], theirs: Mapping[str, Mean], name: str) -> float:
    return (ours[name].mean or 0.0) / (theirs[name].mean or float("nan"))


def _title(runs: Sequence[Run]) -> str:
    configs, seeds = [run.config for run in runs], len({run.seed for run in runs})
    steps = _range([config.loop.steps for config in configs])
    prompts = _range([config.loop.batch_size for config in configs])
    responses = _range([config.rollout.group_size for config in configs])
    return (
        f"{configs[0].data.train}, {steps} steps of {prompts} prompts x {responses} responses, {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}"
    )


def _range(values: Sequence[int]) -> str:
    least, most = min(values), max(values)
    return f"{least}" if least == most else f"{least} to {most}"


def _command(run: Run) -> str:
    return str((read_summary(run.config.folder) or {}).get("command", ""))


def _inline(svg: str) -> str:
    """Without the XML prologue, which HTML has no place for."""
    return svg[svg.index("<svg") :]


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
