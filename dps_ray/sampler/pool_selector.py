"""A selection method over the pool of a sampler."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.settings import StateSettings
from dps_ray.beliefs.states import Observation
from dps_ray.errors import CheckpointError, ConfigError
from dps_ray.plain_settings import made, types_of
from dps_ray.sampler.pool import Pool, among
from dps_ray.selection import methods
from dps_ray.selection.choice import Selection
from dps_ray.selection.mixture import Mixture, observed_in
from dps_ray.selection.selector import Context
from dps_ray.selection.settings import (
    BeliefSettings,
    ClusterSettings,
    SelectorSettings,
    StartSettings,
)

_OF_A_RUN = types_of(BeliefSettings).keys() - types_of(SelectorSettings)
"""Settings that name files which the training pipeline reads, or go with them."""


class Recipe(NamedTuple):
    """What a selector is made from, besides its prompts."""

    method: str
    settings: SelectorSettings
    seed: int
    group_size: int
    states: StateSettings

    @classmethod
    def of(
        cls,
        method: str,
        settings: Mapping[str, Any],
        seed: int,
        group_size: int,
        states: StateSettings | Mapping[str, Any] | str | None,
    ) -> "Recipe":
        """Returns the recipe from the arguments of `PromptSampler`.

        Raises:
            ConfigError: one of them is wrong.
        """
        if not isinstance(states, StateSettings):
            given = {"rule": states} if isinstance(states, str) else states or {}
            states = made(StateSettings, given)
        if group_size < 2:
            raise ConfigError(f"group_size={group_size}: a group needs 2 responses or more")
        chosen = _chosen(method, settings)
        try:
            chosen.check(states)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        built_in = method in methods.BUILT_IN
        if built_in and chosen.learns_from_rewards and find_spec("scipy") is None:
            raise ConfigError(
                f"method={method} learns from rewards with scipy, which is not installed: pip install 'dps_ray[methods]'"
            )
        return cls(method, chosen, int(seed), int(group_size), states)


def _chosen(method: str, settings: Mapping[str, Any]) -> SelectorSettings:
    """Returns the settings of a method, without those that only a run of the training pipeline can use."""
    kind: type[SelectorSettings] = methods.load(method).Settings
    if not issubclass(kind, StartSettings):
        return made(kind, settings)
    if kind.kept is not StartSettings.kept:
        raise ConfigError(
            f"method={method} drops prompts by an evaluation from before the run, which the training pipeline reads: give "
            "only the keys to keep, with method='uniform'"
        )
    for name in settings:
        if name in _OF_A_RUN:
            raise ConfigError(
                f"{name}={settings[name]!r}: selector.{name} is a setting of the training pipeline, which reads files; "
                "leave it out, and use load_state_dict to begin with the beliefs of an earlier sampler"
            )
    return made(kind, settings, unlisted=_OF_A_RUN)


def _tells_unseen_apart(snapshot: Mapping[str, Any]) -> bool:
    """Whether a selector's snapshot knows something of prompts that it never observed, by evidence from before a run."""
    seen = np.sort(observed_in(snapshot))
    known = (snapshot.get(f"{group}_ids", ()) for group in ("begun", "moving", "resting"))
    return not all(among(np.asarray(ids, dtype=np.int64), seen).all() for ids in known)


class PoolSelector:
    """A selector over a pool, as a belief shard of the pipeline holds one.

    Raises:
        ConfigError: the method cannot be used.
    """

    def __init__(self, recipe: Recipe, pool: Pool) -> None:
        self._recipe, self.pool = recipe, pool
        clusters = None
        if isinstance(recipe.settings, ClusterSettings):
            clusters = pool.clusters(recipe.seed)
        context = Context(recipe.seed, len(pool.ids), recipe.group_size, recipe.states, clusters)
        try:
            self._selector = methods.make(recipe.method, pool.ids, recipe.settings, context)
        except ConfigError:
            raise
        except ValueError as error:  # of a combination that only the selector knows to be wrong
            raise ConfigError(f"method={recipe.method}: {error}") from error
        self._mixture = Mixture([self._selector])
        self._are_unseen_alike = recipe.method in methods.BUILT_IN  # within their kind

    def select(self, size: int, busy: NDArray[np.int64]) -> Selection:
        """Returns the best prompts whose keys are in the pool and that are not busy (int64 ids)."""
        (chosen,) = self._mixture.select(size, [np.union1d(busy, self.pool.gone)])
        return chosen

    def observe(self, observation: Observation) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Learns from a step.

        Returns which of its prompts were observed for the first time, and which were a uniform draw within their kind:
        bool (n,) each.
        """
        first = self._selector.times_sampled(observation.ids) == 0
        self._mixture.observe(observation)
        if self._recipe.method == "uniform":
            return first, np.ones_like(first)
        return first, first if self._are_unseen_alike else np.zeros_like(first)

    def snapshot(self) -> dict[str, Any]:
        return self._mixture.snapshot()

    @classmethod
    def resumed(
        cls, recipe: Recipe, pool: Pool, before: Pool, snapshot: Mapping[str, Any]
    ) -> "PoolSelector":
        """Returns the selector that goes on from the snapshot of one over another pool.

        Raises:
            CheckpointError: it was made with other settings.
        """
        selector = cls(recipe, pool.after(before, observed_in(snapshot)))
        try:
            selector._mixture.load_state(snapshot)
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the sampler cannot go on from this state: {error}") from error
        selector._are_unseen_alike &= not _tells_unseen_apart(snapshot)
        return selector
