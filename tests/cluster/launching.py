"""What a command that starts a run asks for, and whether the nodes of a cluster have it."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray.scripts.scripts import start as ray_start

from cluster.start import HEALTH_CHECKS
from dps_ray.config import Config, settings
from dps_ray.config.files import file_of_run

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "clusters.md"
HEALTH_ENVIRONMENT = {f"RAY_{key}": str(value) for key, value in HEALTH_CHECKS.items()}
LOOPBACK = "127.0.0.1"

Resources = dict[str, float]


def config_of(command: Iterable[str]) -> Config:
    """The configuration that `... -m pipelines.grpo_dps [--config NAME] key=value ...` runs with."""
    words = list(command)
    arguments = words[words.index("pipelines.grpo_dps") + 1 :]
    name, overrides = (
        (arguments[1], arguments[2:]) if arguments[0] == "--config" else (None, arguments)
    )
    return settings.load(file_of_run(name, overrides), overrides)


def actors_of(config: Config) -> list[Resources]:
    """What each actor of the run reserves."""
    rollout, learner = config.resources.rollout, config.resources.learner
    beliefs, verifiers = config.resources.beliefs, config.resources.verifiers
    engine = {"GPU": rollout.gpus_per_engine, "CPU": rollout.cpus, **rollout.custom}
    rank = {"GPU": learner.gpus_per_rank, "CPU": learner.cpus, **learner.custom}
    return [
        *[engine] * rollout.engines,
        *[rank] * learner.ranks,
        *[beliefs.custom] * beliefs.shards,
        *[verifiers.custom] * verifiers.workers,
    ]


def left_over(nodes: Iterable[Resources], actors: Iterable[Resources]) -> list[Resources]:
    """The actors that find no room when each goes to the first node that has it."""
    free = [dict(node) for node in nodes]
    homeless = []
    for actor in actors:
        home = next(
            (node for node in free if all(node.get(k, 0) >= n for k, n in actor.items())), None
        )
        if home is None:
            homeless.append(actor)
            continue
        for kind, amount in actor.items():
            home[kind] -= amount
    return homeless


def assert_every_actor_has_its_place(config: Config, nodes: list[Resources]) -> None:
    """They fit, and each says which kind of node it wants, so that none goes to the head."""
    actors = actors_of(config)
    assert all(any(kind.endswith("_node") for kind in actor) for actor in actors)
    assert left_over(nodes, actors) == []


def start_options(command: list[str]) -> dict[str, Any]:
    """The options of a `ray start` command, as Ray's own command line reads them."""
    context = ray_start.make_context("ray start", list(command))
    return context.params


def commands_in_guide(section: str) -> list[list[str]]:
    """The commands in the shell blocks of one section of the guide."""
    text = GUIDE.read_text().split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def run_in_guide(section: str) -> Config:
    """What the section's `ray job submit` runs."""
    commands = commands_in_guide(section)
    return config_of(next(words for words in commands if "pipelines.grpo_dps" in words))
