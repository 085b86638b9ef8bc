"""Which runs a comparison is made of: every method with every seed, alike in all but how prompts are chosen."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dps_ray.config import Config, settings
from dps_ray.errors import ConfigError
from dps_ray.plain_settings import types_of
from dps_ray.selection.settings import SelectorSettings
from pipelines.training.checkpoint import FREE

# What all runs share, unless it is overridden. All train on partial groups alone, so that partial credit gives no method
# more signal than another, but for the belief as baseline, which is there to learn from groups all alike. Only some refill
# their batch. None is judged by the best of its evaluations.
FAIR = (
    "loop.filter_groups=true",
    "loop.max_gen_batches=1",
    "eval.every=10",
    "probe.every=10",
    "probe.prompts=64",
    "checkpoint.keep_best=false",
)
_ROUNDS = ("rollout.group_size=8", "rollout.rounds=[2,2,4]")
ENTRIES: dict[str, tuple[str, ...]] = {
    "uniform": ("method=uniform",),
    "history_resampling": ("method=history_resampling",),
    "ds_published": (
        "method=uniform",
        "loop.max_gen_batches=10",
        "loop.refill=batch",
        "rollout.group_size=8",
    ),
    "ds_4": ("method=uniform", "loop.max_gen_batches=4"),
    "ds_10": ("method=uniform", "loop.max_gen_batches=10"),
    "ds_10_k4": ("method=uniform", "loop.max_gen_batches=10", "rollout.group_size=4"),
    "ds_10_rounds": ("method=uniform", "loop.max_gen_batches=10", *_ROUNDS),
    "dps": ("method=dps",),
    "dps_covered": ("method=dps", "selector.rest=10"),
    "dps_pooled": ("method=dps_pooled",),
    "dps_pooled_states": ("method=dps_pooled", "selector.observation=states"),
    "dps_pooled_k4": ("method=dps_pooled", "rollout.group_size=4"),
    "dps_pooled_refill": (
        "method=dps_pooled",
        "loop.max_gen_batches=10",
        "rollout.group_size=4",
    ),
    "dps_pooled_k2": ("method=dps_pooled", "rollout.group_size=2"),
    "dps_pooled_rounds": ("method=dps_pooled", *_ROUNDS),
    "dps_pooled_adaptive": ("method=dps_pooled", "rollout.rounds=adaptive"),
    "dps_pooled_belief": (
        "method=dps_pooled",
        "rollout.group_size=4",
        "objective.baseline=belief",
        "loop.filter_groups=false",
    ),
    "dps_pooled_replay": ("method=dps_pooled", "loop.replay={steps: 4, share: 0.25}"),
    "mopps": ("method=mopps",),
    "mapp": ("method=mapp",),
    "variance_ema": ("method=variance_ema",),
    "recency": ("method=recency",),
    "greso": ("method=greso", "loop.max_gen_batches=10"),
}
_NOT_FOR_ALL = {"method": "--methods", "seed": "--seeds", "folder": "--out"}
# What a run may be carried out with and still be the same run.
_FREE = tuple(key for key in FREE if key not in ("eval", "probe"))


class Run(NamedTuple):
    """One run to do, or that was done.

    method:    the name of its entry
    overrides: `key=value` on top of the configuration file
    config:    both together; `config.folder` is the run's folder
    """

    method: str
    seed: int
    overrides: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        return run_name(self.method, self.seed)


def run_name(method: str, seed: int) -> str:
    return f"{method}-s{seed}"


def plan(
    methods: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    file: Path,
    *,
    rates: Mapping[str, str] | None = None,
    steps: Mapping[str, str] | None = None,
    entries: Mapping[str, tuple[str, ...]] | None = None,
    overrides: Sequence[str] = (),
) -> list[Run]:
    """All runs, in order: every method with the first seed before any with the second, so that what is
    there can be compared at any time.

    rates:   learning rate by method, for those with one of their own.
    steps:   likewise, the number of steps.
    entries: by name, beside `ENTRIES`: what they override.
    overrides: for all methods; one of a setting that only some methods have, such as selector.decay, is for those.

    Raises:
        ConfigError: a method is unknown, a setting is wrong, or is not for all methods.
    """
    rates, steps = rates or {}, steps or {}
    known = {**ENTRIES, **(entries or {})}
    for what, names in (("--methods", methods), ("--lr", rates), ("--steps", steps)):
        for name in names:
            if name not in known:
                raise ConfigError(f"{what} {name}: write one of {', '.join(known)}")
    for what, names in (("--lr", rates), ("--steps", steps)):
        if unused := set(names) - set(methods):
            raise ConfigError(f"{what} {min(unused)}: it is not among the methods to compare")
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _NOT_FOR_ALL:
            raise ConfigError(f"{override}: runs differ in it; use {_NOT_FOR_ALL[key]}")
    kinds = {name: _settings_of(known[name], file) for name in methods}
    runs = []
    for seed in dict.fromkeys(seeds):
        for name in dict.fromkeys(methods):
            given = (("learner.lr", rates), ("loop.steps", steps))
            own = (
                *(f"{key}={values[name]}" for key, values in given if name in values),
                f"seed={seed}",
                f"folder={(out / run_name(name, seed)).absolute()}",
                "checkpoint.storage=null",
                "resume=auto",
            )
            shared = [o for o in overrides if _is_for(o, kinds[name], kinds.values())]
            all_ = (*FAIR, *shared, *known[name], *own)
            runs.append(Run(name, seed, all_, settings.load(file, all_)))
    return runs


def references(runs: Sequence[Run]) -> list[str]:
    """The methods that are Dynamic Sampling: uniform selection that refills its batch. Their accuracy is the others' target."""
    return list(
        dict.fromkeys(
            run.method
            for run in runs
            if run.config.method == "uniform"
            and run.config.loop.filter_groups
            and run.config.loop.max_gen_batches > 1
        )
    )


def _settings_of(entry: Sequence[str], file: Path) -> type[SelectorSettings]:
    """The class of selector settings that an entry's method has."""
    named = [override for override in entry if override.partition("=")[0].strip() == "method"]
    return type(settings.load(file, named).selector)


def _is_for(
    override: str, kind: type[SelectorSettings], all_: Iterable[type[SelectorSettings]]
) -> bool:
    """Whether an override is for a method; one that is for none is for all, to be refused with the reason."""
    group, _, name = override.partition("=")[0].strip().partition(".")
    others = any(name in types_of(other) for other in all_)
    return group != "selector" or not name or name in types_of(kind) or not others


def entry(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and overrides of an entry written `name:key=value,key=value`.

    Raises:
        ConfigError: it is not written so, or the name is taken.
    """
    name, separator, listed = text.partition(":")
    parts = tuple(re.split(r",(?=[\w.]+=)", listed))  # a value may be a list
    if not separator or not re.fullmatch(r"[\w.]+", name) or not all("=" in p for p in parts):
        raise ConfigError(
            f"--entry {text}: write name:key=value,key=value, such as dps_d9:method=dps,selector.decay=0.9"
        )
    if name in ENTRIES:
        raise ConfigError(f"--entry {name}: that is a method already; take another name")
    return name, parts


def check_same(run: Run, recorded: Config) -> None:
    """
    Raises:
        ConfigError: what is in the run's folder was made with other settings.
    """
    now = dict(settings.flatten(run.config))
    for key, was in settings.flatten(recorded):
        if not key.startswith(_FREE) and now[key] != was:
            raise ConfigError(
                f"{run.config.folder} was made with {key}={was}, and {run.name} has {key}={now[key]}; "
                "set it back, or give another --out"
            )


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """`name=value` each, as a dict. `option`: where they were given.

    Raises:
        ConfigError: one is not written so.
    """
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            example = {"--lr": "dps=3e-5", "--steps": "dps=120"}[option]
            raise ConfigError(f"{option} {text}: write method=value, such as {example}")
        found[name] = value
    return found
