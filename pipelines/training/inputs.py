"""Data, start policy and reward function of a run: found or made, and checked before any actor starts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.images import load_image_inputs
from actors.lora import check_targets
from actors.model_files import check_savable
from dps_ray.config import Config
from dps_ray.errors import ConfigError, DataError
from dps_ray.prompts.dataset import PromptTable, note_on_strings, overlap
from dps_ray.rewards.trial import TRIALS, RewardTrial
from dps_ray.selection.clusters import Clusters, number_within
from dps_ray.selection.population import Population
from dps_ray.selection.settings import ClusterSettings
from pipelines.data import builtin
from pipelines.data.hub import check_model
from pipelines.data.start_policy import ensure_start_policy
from pipelines.monitoring.view import View
from pipelines.rollout.pool import PromptPool, load_tokenizer


@dataclass
class Inputs:
    """Checked inputs of a run. Nothing here needs Ray."""

    model: str
    pool: PromptPool
    test: PromptPool | None
    clusters: Clusters | None  # of the pool's prompts, where the method learns by them

    def population(self) -> Population:
        """Returns the prompts that the run selects from."""
        order = np.argsort(self.pool.ids)
        return Population(
            self.pool.ids[order], None if self.clusters is None else self.clusters.take(order)
        )


def prepare(config: Config, view: View) -> Inputs:
    """Finds or makes data and start policy, and checks them and the reward function.

    Raises:
        DataError, ModelError, RewardError, ConfigError: what is wrong with them.
    """
    view.start(
        f"dps_ray: {config.method} on {config.data.train}",
        [
            f"{config.loop.steps} steps of {config.loop.batch_size} prompts x {config.rollout.group_size} responses",
            f"folder {config.folder}",
        ],
    )
    view.phase("loading the reward function")
    with RewardTrial(
        config.data.reward, config.verifier, config.resources.wait, view.message
    ) as trial:
        inputs = _prepare(config, view)
        view.phase("trying the reward function")
        for pool in filter(None, (inputs.pool, inputs.test)):
            trial.check(pool.samples(TRIALS))
    return inputs


def _prepare(config: Config, view: View) -> Inputs:
    """Everything except the reward function."""
    train, test = _data(config)
    model = config.model.path
    if model == "builtin:start-policy":
        view.phase("making the start policy")
        model = str(
            ensure_start_policy(
                builtin.cache(),
                seed=0,
                progress=lambda done, total, loss: view.progress(
                    done, total, f"steps, loss {loss:.2f}"
                ),
            )
        )
    check_model("model.path=", model)
    view.phase("reading prompts")
    tokenizer = load_tokenizer(model, config.model.chat_template)
    images = load_image_inputs(model, config.data.max_pixels)
    check_savable(model, tokenizer, images)
    check_targets(model, config.learner)
    pool = PromptPool(
        PromptTable.open(train, config.data.id_column), tokenizer, images, config, view.progress
    )
    if config.data.train_max_samples is not None:
        pool.keep(config.data.train_max_samples, config.seed)
    _check_pool(pool, config)
    held_out = None
    if test is not None:
        table = PromptTable.open(test, config.data.id_column)
        held_out = PromptPool(table, tokenizer, images, config, view.progress)
        common = overlap(pool.table, table)
        if common:
            raise DataError(
                f"{common} prompts of data.test={config.data.test} occur in data.train as well; "
                "take them out of one of the two, or accuracy on them would mean nothing"
            )
    note = note_on_strings(each.table for each in (pool, held_out) if each is not None)
    if note is not None:
        view.message(note)
    if pool.skipped:
        view.message(
            f"{pool.skipped} of {len(pool.table)} prompts are longer than "
            f"data.max_prompt_length={config.data.max_prompt_length} tokens and left out"
        )
    clusters = None
    if isinstance(config.selector, ClusterSettings):
        labels = pool.table.clusters(pool.ids, config.selector.cluster_column)
        clusters = number_within(pool.ids, labels, config.seed)
    return Inputs(model, pool, held_out, clusters)


def _data(config: Config) -> tuple[Any, Any]:
    """Returns the paths of training and test data. Built-in data is made first, unless it is cached."""
    paths: list[Any] = []
    for index, source in enumerate((config.data.train, config.data.test)):
        if isinstance(source, str) and source.startswith("builtin:"):
            paths.append(builtin.ensure(source, ("data.train", "data.test")[index])[index])
        else:
            paths.append(source)
    return paths[0], paths[1]


def _check_pool(pool: PromptPool, config: Config) -> None:
    limit = config.data.max_prompt_length
    if len(pool.ids) == 0:
        raise DataError(
            f"all {pool.skipped} prompts of {config.data.train} are longer than "
            f"data.max_prompt_length={limit} tokens; raise it"
        )
    if len(pool.ids) < config.loop.batch_size:
        raise ConfigError(
            f"loop.batch_size={config.loop.batch_size} is larger than the pool of {len(pool.ids)} "
            f"prompts; set it to {len(pool.ids)} or less"
        )
    share = getattr(config.selector, "candidates", None)
    if share is not None and share * len(pool.ids) < 2 * config.loop.batch_size:
        raise ConfigError(
            f"selector.candidates={share} leaves about {share * len(pool.ids):.0f} of {len(pool.ids)} "
            f"prompts to rank for a batch of {config.loop.batch_size}; set it to "
            f"{min(1.0, 2 * config.loop.batch_size / len(pool.ids)):.2g} or more, or to null"
        )
