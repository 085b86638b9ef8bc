"""What a finished run amounts to, in plain English: the last words on the screen, the first in the report.

The words follow the numbers: a rise is called one only where the 95% intervals before and after
training do not overlap, and a batch that carried less gradient than uniform sampling's is called so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summarize(summary: Mapping[str, Any]) -> str:
    """The closing words for the contents of summary.json, a sentence a line, and where the model is."""
    lines = [headline(summary), *details(summary)]
    if summary.get("checkpoint"):
        lines.append(f"Trained model: {summary['checkpoint']}")
    if (best := summary.get("best")) and best["step"] != summary["steps"]:
        lines.append(f"Best model: {best['model']}")
    return "\n".join(lines)


def headline(summary: Mapping[str, Any]) -> str:
    """One sentence: accuracy on held-out prompts, before and after."""
    before, after = summary.get("accuracy_before"), summary.get("accuracy_after")
    if not before or not after:
        return (
            f"Trained for {summary['steps']:,} steps; accuracy was not measured before and after."
        )
    start, end = percent(before["mean"]), percent(after["mean"])
    if start == end:
        return f"Accuracy on held-out prompts stayed at {end}."
    if _overlap(before, after):
        return f"Accuracy on held-out prompts went from {start} to {end}, which may be chance."
    verb = "rose" if after["mean"] > before["mean"] else "fell"
    return f"Accuracy on held-out prompts {verb} from {start} to {end}."


def details(summary: Mapping[str, Any]) -> list[str]:
    """The sentences after the headline: the intervals, the rollouts, the prompts and the time."""
    sentences = []
    before, after = summary.get("accuracy_before"), summary.get("accuracy_after")
    if before and after:
        verb = "overlap" if _overlap(before, after) else "do not overlap"
        sentences.append(f"The 95% intervals, {_ends(before)} and {_ends(after)}, {verb}.")
    if (best := summary.get("best")) and best["step"] != summary["steps"]:
        when = f"after step {best['step']:,}" if best["step"] else "before training"
        sentences.append(f"Accuracy was highest {when}, at {percent(best['accuracy'])}.")
    sentences.append(_gradient(summary))
    if compared := summary.get("compared"):
        sentences += [_measured(each, compared["folder"]) for each in compared["methods"]]
    elif summary.get("saved"):
        sentences.append(_savings(summary["rollouts_per_mixed_group"], summary["saved"]))
    sentences.append(
        f"{summary['distinct_prompts']:,} of the pool's {summary['pool']:,} prompts were rolled out in "
        f"{summary['steps']:,} steps and {duration(summary['seconds'])}: {summary['rollouts']:,} rollouts "
        f"of {summary['tokens']:,} tokens."
    )
    return sentences


def _gradient(summary: Mapping[str, Any]) -> str:
    ours, uniform = summary["gradient_share"], summary.get("uniform_effective_ratio")
    sentence = f"{percent(ours)} of the rollouts for training carried gradient"
    if uniform is None or summary["method"] == "uniform":
        return sentence + "."
    verdict = ", which is more" if uniform > ours else ""
    return f"{sentence}; prompts drawn uniformly would have given {percent(uniform)}{verdict}."


def _savings(price: float, saved: Mapping[str, Any]) -> str:
    uniform = saved["uniform_rollouts_per_mixed_group"]
    sentence = (
        f"A partial group cost {price:.1f} rollouts; by the probes, uniform sampling and Dynamic Sampling in full "
        f"groups would have paid {uniform:.1f}"
    )
    if saved["rollouts"] <= 0:
        return f"{sentence}, which is no more."
    money = f" and {saved['money']:,.2f} in GPU hours" if saved.get("money") else ""
    return (
        f"{sentence}: for as many, {saved['rollouts']:,} more rollouts, about {saved['tokens']:,} tokens, "
        f"{duration(saved['engine_seconds'])} of engine time{money}."
    )


def _measured(other: Mapping[str, Any], folder: str) -> str:
    """What another method was measured to take to the same accuracy."""
    seeds = f"{other['seeds']} {'seed' if other['seeds'] == 1 else 'seeds'}"
    name = f"{other['against']} ({seeds} in {folder})"
    if not other["reached"]:
        return f"{name} did not reach this accuracy with {other['took']:,} rollouts."
    rollouts, tokens = other["rollouts"], other["tokens"]
    parts = [
        f"{abs(rollouts):,} {_more(rollouts)} rollouts",
        f"{abs(tokens):,} {_more(tokens)} tokens",
    ]
    if (seconds := other["engine_seconds"]) is not None:
        parts.append(f"{duration(abs(seconds))} {_more(seconds, 'less')} engine time")
    if (money := other["money"]) is not None:
        parts.append(f"{abs(money):,.2f} {_more(money, 'less')} in GPU hours")
    return f"{name} was measured to take {other['took']:,} rollouts to this accuracy: {', '.join(parts)}."


def _more(amount: float, otherwise: str = "fewer") -> str:
    return "more" if amount >= 0 else otherwise


def _overlap(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a["low"] <= b["high"] and b["low"] <= a["high"]


def _ends(accuracy: Mapping[str, float]) -> str:
    return f"{percent(accuracy['low'])} to {percent(accuracy['high'])}"


def percent(share: float) -> str:
    """A share in [0, 1] with one decimal: "38.2%"."""
    return f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """Seconds in two units at most: "45s", "2m10s", "1h05m"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
