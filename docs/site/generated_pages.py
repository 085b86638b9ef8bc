"""A hook of MkDocs that makes pages from the code and from the files at the repository's root.

README.md, CONTRIBUTING.md, CHANGELOG.md ─> index.md, contributing.md, changelog.md
the configuration                        ─> settings.md
pipelines/monitoring/metrics.py          ─> metrics.md
API, below                               ─> api.md, which mkdocstrings fills with docstrings
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from dps_ray.config import Config, settings  # noqa: E402
from dps_ray.config.evaluation import EvaluationConfig  # noqa: E402
from pipelines.monitoring.metrics import PLACEHOLDERS, TABLE  # noqa: E402

FROM_ROOT = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}

# Section: its objects, by their import paths.
API = {
    "Training": (
        "dps_ray.config.config.Config",
        "pipelines.training.trainer.Trainer",
        "pipelines.training.trainer.StepResult",
        "pipelines.training.trainer.Callback",
    ),
    "In other trainers": (
        "dps_ray.sampler.prompt_sampler.PromptSampler",
        "dps_ray.sampler.prompt_sampler.Resumed",
    ),
    "Selection": (
        "dps_ray.selection.methods.dps.BeliefStore",
        "dps_ray.selection.methods.uniform.UniformSelector",
        "dps_ray.selection.selector.Selector",
        "dps_ray.selection.choice.Selection",
        "dps_ray.selection.choice.merge",
    ),
    "Beliefs": ("dps_ray.beliefs.hmm", "dps_ray.beliefs.states", "dps_ray.beliefs.prediction"),
    "Objective": (
        "dps_ray.objective.advantages",
        "dps_ray.objective.policy_losses",
        "dps_ray.objective.aggregation",
        "dps_ray.objective.overlong",
        "dps_ray.objective.grpo",
    ),
    "Prompts": ("dps_ray.prompts.dataset",),
    "Configuration": ("dps_ray.config.settings",),
    "Reading a run": ("pipelines.monitoring.run_log", "pipelines.monitoring.metrics"),
    "Errors": ("dps_ray.errors",),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {
        "settings.md": settings_page(),
        "metrics.md": metrics_page(),
        "api.md": api_page(),
        **{page: (ROOT / file).read_text() for page, file in FROM_ROOT.items()},
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def settings_page() -> str:
    """Every setting of the main job and of the evaluation, by group."""
    lines = [
        "# Settings",
        "",
        "Settings are read from `--config FILE` and from `key=value` on the command line; `--help` lists them too.",
    ]
    programs = (
        ("python -m pipelines.grpo_dps", Config),
        ("python -m pipelines.evaluate", EvaluationConfig),
    )
    for program, kind in programs:
        lines += ["", f"## {program}"]
        for group, rows in by_group(settings.describe(kind)):
            lines += ["", f"### {group} {{ #{program.split('.')[-1]}-{group} }}" if group else ""]
            lines += ["", *table(("setting", "type", "default", "what it does"), rows)]
    return "\n".join(lines) + "\n"


def by_group(
    described: Iterable[tuple[str, str, Any, str]],
) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """The rows of settings by the part of their names before the last dot, in the order of declaration."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for key, kind, default, says in described:
        row = (f"`{key}`", f"`{kind}`", f"`{shown(default)}`", says)
        groups.setdefault(key.rpartition(".")[0], []).append(row)
    yield from groups.items()


def shown(default: Any) -> str:
    """A default as it is written on the command line; `...` where a value has to be given."""
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (list, tuple)):
        return f"[{', '.join(map(str, default))}]"
    return str(default)


def metrics_page() -> str:
    """The table of metrics, and what stands for placeholders."""
    over = {
        "step": "the step",
        "run": "the run so far",
        "start": "since the program started",
        "now": "the moment",
    }
    lines = [
        "# Metrics",
        "",
        "Each step of a run appends these to `metrics.jsonl` in its folder and hands them to the loggers. The table",
        "is `pipelines/monitoring/metrics.py`; a selector of one's own may add names.",
    ]
    for group in TABLE:
        lines += ["", f"## {group.title}", "", f"Written by `{group.folder}/`.", ""]
        rows = [(f"`{m.name}`", m.unit, over[m.over], m.says) for m in group.metrics]
        lines += table(("metric", "unit", "of", "what it says"), rows)
    lines += ["", "## Placeholders", ""]
    explained = [(f"`{{{name}}}`", says) for name, (says, _) in PLACEHOLDERS.items()]
    lines += table(("in a name", "stands for"), explained)
    return "\n".join(lines) + "\n"


def api_page() -> str:
    """Directives for mkdocstrings, section by section."""
    lines = ["# Python reference", "", "Made from the docstrings."]
    for title, objects in API.items():
        lines += ["", f"## {title}"]
        for name in objects:
            lines += ["", f"::: {name}"]
    return "\n".join(lines) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """The lines of a Markdown table; a bar within code needs no escape."""
    return [_line(row) for row in (head, ("---",) * len(head), *rows)]


def _line(row: tuple[str, ...]) -> str:
    cells = (" ".join(cell.split()) for cell in row)
    return (
        "| " + " | ".join(c if c.startswith("`") else c.replace("|", "\\|") for c in cells) + " |"
    )
