"""The table of a comparison at equal accuracy, and at equal rollouts, as text."""

from collections.abc import Sequence

from pipelines.comparison.drawing import label
from pipelines.comparison.rows import AtAccuracy, AtRollouts, Numbers


def equal_table(numbers: Numbers, reference: str | None) -> list[list[str]]:
    """The header and a row a method; nothing without a Dynamic Sampling to compare with.

    Args:
        reference: whose rollouts accuracies are told for.
    """
    accuracy = {(row.method, row.reference, row.cost): row for row in numbers.equal_accuracy}
    rollouts = [row for row in numbers.equal_rollouts if row.reference == reference]
    shares = list(dict.fromkeys(row.share for row in rollouts))
    at = {(row.method, row.share): row for row in rollouts}
    references = list(dict.fromkeys(row.reference for row in numbers.equal_accuracy))
    if reference is None or not references:
        return []
    header = ["method"]
    for name in references:
        header += [f"rollouts, of {label(name)}'s", f"tokens, of {label(name)}'s"]
    header += [f"accuracy at {share:.0%} of {label(reference)}'s rollouts" for share in shares]
    return [
        header,
        *(
            [
                label(method),
                *(
                    _share(accuracy[method, name, cost])
                    for name in references
                    for cost in ("rollouts", "tokens")
                ),
                *(_accuracy(at[method, share]) for share in shares),
            ]
            for method in dict.fromkeys(row.method for row in numbers.equal_accuracy)
        ),
    ]


def _share(row: AtAccuracy) -> str:
    if row.share is None:
        return f"not reached ({row.reached} of {row.seeds} seeds)"
    if row.method == row.reference:
        return f"100% ({row.taken:,.0f})"
    error = "" if row.share_error is None else f" ± {100 * row.share_error:.0f}"
    return f"{row.share:.0%}{error} ({_spread(row)})"


def _spread(row: AtAccuracy) -> str:
    """What it took: by the mean curve, and from the fastest seed to the slowest."""
    if row.seeds == 1 or row.least is None:
        return f"{row.taken:,.0f}"
    most = "never" if row.most is None else f"{row.most:,.0f}"
    return f"{row.taken:,.0f}; seeds {row.least:,.0f} to {most}"


def _accuracy(row: AtRollouts) -> str:
    if row.accuracy is None:
        return "-"
    error = "" if row.error is None else f" ± {100 * row.error:.1f}"
    return f"{100 * row.accuracy:.1f}%{error}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns a header and the rows after it as a table in Markdown; nothing without rows."""
    if not rows:
        return ""
    lines = [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
