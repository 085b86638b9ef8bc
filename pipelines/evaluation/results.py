"""The results of an evaluation, as JSON and as a table in the layout of papers.

| mean@16 (%) |    aime24 |       amc23 |       Avg. |      a row per model, a column per test set
|-------------|----------:|------------:|-----------:|
| A           | 3.3 ± 2.1 | 25.0 ± 11.3 | 14.2 ± 5.8 |
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.rollout.accuracy import Estimate
from pipelines.rollout.answers import Answered, accuracies_by_source, estimates


def result_of(benchmarks: Mapping[str, Sequence[Answered]]) -> dict[str, Any]:
    """The results of one model on these test sets, as a dict with two entries.

    columns: one for each test set, or for each data source of a test set that has several, with

        name, data_source
        prompts, failed               numbers of prompts; failed prompts are left out of the numbers below
        responses, truncated, tokens  numbers of responses, truncated responses and tokens
        seconds                       time of generating and scoring
        reward                        mean score of the responses; null if all prompts failed
        mean@n, pass@m                {value, low, high} each; absent if all prompts failed

    average: mean@n and pass@m as unweighted means over the columns; null if a column lacks them
    """
    columns, sets = [], []
    for name, answers in benchmarks.items():
        scored = accuracies_by_source(answers)
        sources = dict.fromkeys(answered.data_source for answered in answers)
        for source in sources:
            here = [answered for answered in answers if answered.data_source == source]
            label = name if len(sources) == 1 else f"{name}/{source}"
            column = [scored[source]] if source in scored else []
            columns.append(
                {
                    "name": label,
                    "data_source": source,
                    **_counts(here),
                    **_as_json(estimates(column)),
                }
            )
            sets += column
    average = _as_json(estimates(sets)) if len(sets) == len(columns) else None
    return {"columns": columns, "average": average}


def _counts(answers: Sequence[Answered]) -> dict[str, float | None]:
    rewards = [each.reward for each in answers if each.reward is not None]
    return {
        "prompts": len(answers),
        "failed": sum(each.accuracies is None for each in answers),
        "responses": sum(len(each.accuracies or ()) for each in answers),
        "truncated": sum(each.truncated for each in answers),
        "tokens": sum(each.tokens for each in answers),
        "seconds": sum(each.seconds for each in answers),
        "reward": sum(rewards) / len(rewards) if rewards else None,
    }


def tables(models: Sequence[dict[str, Any]], n: int) -> str:
    """Tables of mean@n and pass@n of every model, followed by notes on the numbers.

    models: {name, columns, average} for each model.
    """
    blocks = [_table(measure, models) for measure in (f"mean@{n}", f"pass@{n}")]
    return "\n\n".join([*blocks, "\n".join(_notes(models))])


def _table(measure: str, models: Sequence[dict[str, Any]]) -> str:
    by_name = [{column["name"]: column for column in model["columns"]} for model in models]
    names = list(dict.fromkeys(name for columns in by_name for name in columns))
    rows = []
    for model, columns in zip(models, by_name, strict=True):
        cells = [_cell(columns.get(name, {}).get(measure)) for name in names]
        average = _cell((model["average"] or {}).get(measure))
        rows.append([model["name"], *cells, *([average] if len(names) > 1 else [])])
    header = [f"{measure} (%)", *names, *(["Avg."] if len(names) > 1 else [])]
    return _aligned(header, rows)


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found['value']:.1f} ± {50 * (found['high'] - found['low']):.1f}"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned as plain text too."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in (header, *rows)
    ]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def _notes(models: Sequence[dict[str, Any]]) -> list[str]:
    notes = ["± is half the 95% bootstrap interval over prompts."]
    for model in models:
        for column in model["columns"]:
            where = f"{model['name']} on {column['name']}"
            if column["truncated"]:
                notes.append(
                    f"{where}: {column['truncated']:,} of {column['responses']:,} responses were truncated."
                )
            if column["failed"]:
                notes.append(
                    f"{where}: {column['failed']:,} of {column['prompts']:,} prompts failed and are left out."
                )
    return notes


def _as_json(found: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: each._asdict() for name, each in found.items()}
