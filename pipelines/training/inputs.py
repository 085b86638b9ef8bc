"""Data, start policy and reward function of a run: found or made, and checked before any actor starts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dps_ray.config import Config
from dps_ray.durable import Manifest, Storage
from dps_ray.errors import ConfigError, DataError
from dps_ray.prompts.cache import Cache
from dps_ray.prompts.dataset import PromptTable, note_on_strings, overlap
from dps_ray.selection.evidence import Evidence
from dps_ray.selection.population import Population
from pipelines.data import builtin
from pipelines.data.hub import check_model
from pipelines.data.policy_recipe import RECIPES
from pipelines.data.start_policy import ensure_start_policy
from pipelines.monitoring.view import View
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.processors import Processors, load_processors
from pipelines.rollout.trial import trial_of
from pipelines.training.pool_record import PoolRecord, changes, check_pool
from pipelines.training.population import population_of_run
from pipelines.training.start import Start, start_of


@dataclass
class Inputs:
    """Checked inputs of a run. Nothing here needs Ray."""

    model: str
    pool: PromptPool
    test: PromptPool | None
    population: Population
    record: PoolRecord
    start: Start | None
    """What is known of the prompts before the first step."""

    def evidence(self, config: Config) -> Evidence | None:
        """Returns what the beliefs of the run begin with."""
        return None if self.start is None else self.start.of_beliefs(config, self.population)


def prepare(
    config: Config, view: View, storage: Storage | None = None, base: Manifest | None = None
) -> Inputs:
    """Finds or makes data and start policy, and checks them and the reward function.

    Args:
        storage, base: the checkpoint that the run continues from, if it does, and where it is.

    Raises:
        DataError, ModelError, RewardError, EpisodeError, ConfigError: what is wrong with them.
        CheckpointError: prompts that the run has observed have changed, or are gone.
    """
    view.start(
        f"dps_ray: {config.method} on {config.data.train}",
        [
            f"{config.loop.steps} steps of {config.loop.batch_size} prompts x {config.rollout.group_size} responses",
            f"folder {config.folder}",
        ],
    )
    what = "reward function" if config.environment.path is None else "environment"
    view.phase(f"loading the {what}")
    with trial_of(config, view.message) as trial:
        inputs = _prepare(config, view, storage, base)
        view.phase(f"trying the {what}")
        for pool in filter(None, (inputs.pool, inputs.test)):
            trial.check(pool)
    return inputs


def _prepare(config: Config, view: View, storage: Storage | None, base: Manifest | None) -> Inputs:
    """Everything except the reward function."""
    train, test = _data(config)
    model = model_of(config, view)
    view.phase("reading prompts")
    processors = load_processors(
        model, config.model.chat_template, config.data.max_pixels, builtin.cache()
    )
    cache = Cache(builtin.cache() / "prompts", view.message)
    pool = _training_pool(train, processors, config, view, cache)
    held_out = None
    if test is not None:
        held_out = _test_pool(test, pool.table, processors, config, view, cache)
    for line in _notes(pool, held_out, config):
        view.message(line)
    before = None
    if storage is not None and base is not None:
        before = check_pool(storage, base, pool.table, config.data.train, pool.ids)
    start = start_of(config, pool.table, pool.ids, model, storage, base, view.message)
    evidence = None if start is None else start.evidence
    population, record = population_of_run(pool, config, before, cache, evidence)
    if len(population) < len(pool.ids):
        view.message(
            f"{config.method} keeps {len(population):,} of {len(pool.ids):,} prompts, for good"
        )
    if before is not None:
        for line in changes(before, record):
            view.message(line)
    return Inputs(model, pool, held_out, population, record, start)


def model_of(config: Config, view: View) -> str:
    """Returns the folder or name of the model, which is checked. The built-in one is made first, unless it is cached."""
    model = config.model.path
    if model in RECIPES:
        view.phase("making the start policy")
        model = str(
            ensure_start_policy(
                builtin.cache(),
                seed=0,
                progress=lambda done, total, loss: view.progress(
                    done, total, f"steps, loss {loss:.2f}"
                ),
                name=model,
            )
        )
    check_model("model.path=", model)
    if config.learner.lora is not None:
        from actors.lora import check_targets  # with torch, which takes seconds

        check_targets(model, config.learner)
    critic = config.learner.critic.path
    if critic is not None:
        check_model("learner.critic.path=", critic)
        from actors.critic import check_critic  # with torch as well

        check_critic(critic, model)
    if config.learner.sequence_parallel > 1:
        from actors.sequence_parallel import check_model as check_shared  # with torch

        for shared in (model, critic):
            if shared is not None:
                check_shared(shared, config.learner.sequence_parallel)
    return model


def _training_pool(
    train: Any, processors: Processors, config: Config, view: View, cache: Cache
) -> PromptPool:
    def checked(done: int, total: int) -> None:
        view.progress(done, total, "prompts checked")

    data = config.data
    table = PromptTable.open(train, data.id_column, checked, cache)
    pool = PromptPool(table, *processors, config, view.progress, data.measure, cache)
    if data.train_max_samples is not None:
        pool.keep(data.train_max_samples, config.seed)
    _check_pool(pool, config)
    return pool


def _test_pool(
    test: Any,
    train: PromptTable,
    processors: Processors,
    config: Config,
    view: View,
    cache: Cache,
) -> PromptPool:
    """The held-out prompts, which must not be in the training pool. All are measured now."""
    table = PromptTable.open(test, config.data.id_column, cache=cache)
    pool = PromptPool(table, *processors, config, view.progress, cache=cache)
    _check_not_empty(pool, config.data.test, config)
    common = overlap(train, table, cache)
    if common:
        raise DataError(
            f"{common} prompts of data.test={config.data.test} occur in data.train as well; "
            "take them out of one of the two, or accuracy on them would mean nothing"
        )
    return pool


def _notes(pool: PromptPool, held_out: PromptPool | None, config: Config) -> Iterator[str]:
    """Yields what is worth knowing about the prompts."""
    pools = [each for each in (pool, held_out) if each is not None]
    strings = note_on_strings(each.table for each in pools)
    if strings is not None:
        yield strings
    for each, name in zip(pools, ("data.train", "data.test"), strict=False):
        if each.skipped:
            yield (
                f"{each.skipped} of {len(each.table)} prompts of {name} are longer than "
                f"data.max_prompt_length={config.data.max_prompt_length} tokens and left out"
            )


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
    _check_not_empty(pool, config.data.train, config)
    if len(pool.ids) < config.loop.batch_size:
        raise ConfigError(
            f"loop.batch_size={config.loop.batch_size} is larger than the pool of {len(pool.ids)} "
            f"prompts; set it to {len(pool.ids)} or less"
        )
    pool.try_out(config.data.train)
    share = getattr(config.selector, "candidates", None)
    if share is not None and share * len(pool.ids) < 2 * config.loop.batch_size:
        raise ConfigError(
            f"selector.candidates={share} leaves about {share * len(pool.ids):.0f} of {len(pool.ids)} "
            f"prompts to rank for a batch of {config.loop.batch_size}; set it to "
            f"{min(1.0, 2 * config.loop.batch_size / len(pool.ids)):.2g} or more, or to null"
        )


def _check_not_empty(pool: PromptPool, source: Any, config: Config) -> None:
    if len(pool.ids) == 0:
        raise DataError(
            f"all {pool.skipped} prompts of {source} are longer than "
            f"data.max_prompt_length={config.data.max_prompt_length} tokens; raise it"
        )
