"""`PromptSampler`: prompt selection for any training framework, in two calls.

take(n) ──keys──> the framework rolls out and scores ──rewards──> report(keys, rewards)
   │                                                                   │
in flight until reported or released             collected; `batch` groups make a step of the whole pool
"""

import operator
import threading
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dps_ray.beliefs.settings import StateSettings
from dps_ray.beliefs.states import PARTIAL
from dps_ray.errors import ConfigError, SamplerError
from dps_ray.sampler.keys import KeyTable
from dps_ray.sampler.measures import Measures
from dps_ray.sampler.open_step import OpenStep, scored_responses
from dps_ray.sampler.pool import Kind, Pool, among, kinds_of
from dps_ray.sampler.pool_selector import PoolSelector, Recipe
from dps_ray.sampler.saved import Saved
from dps_ray.selection.mixture import observed_in


class Resumed(NamedTuple):
    """What `PromptSampler.load_state_dict` found.

    added:   keys of this sampler that the saved one did not have; they were never seen
    dropped: keys of the saved sampler that this one does not have
    known:   keys of this sampler that were observed before
    freed:   keys that were in flight when the state was saved; they are free, as their rollouts were lost
    """

    added: int
    dropped: int
    known: int
    freed: int


class PromptSampler:
    """Chooses which prompts a trainer rolls out next, and learns from their rewards.

        sampler = PromptSampler(keys, group_size=8)
        keys = sampler.take(64)            # in flight from now on
        ...                                # 8 responses to each, scored
        sampler.report(keys, rewards)      # (64, 8); in any order, in parts, late

    **Keys** are strings, integers or other hashable values, one for each prompt of the pool, such as row numbers.
    Everything is known by key: neither their order, the process nor PYTHONHASHSEED matters. Samplers with the same keys,
    arguments and calls choose the same prompts, so data-parallel ranks that all hold one need no communication.

    **Observing is not advancing.** Reports are collected in an *open step*. When it closes, the beliefs of the whole pool
    move on by one step. It closes at the end of the call with which `batch` prompts were settled (reported, failed or
    released), or by `tick`. A prompt that was reported is not taken again before its step has closed. Within a step the
    order of reports does not matter, and reports of one prompt are joined to one group.

    All methods may be called from several threads.

    Args:
        keys: of all prompts of the pool, distinct.
        group_size: k, how many responses a prompt usually gets. Groups of other sizes may be reported.
        method: `dps_pooled` (learns by kind, and how likely prompts never seen are partial), `dps`, `uniform`, another name
            in `dps_ray.selection.methods.BUILT_IN` except `offline_filter`, or a selector class: `package.module:Class` or
            `file.py:Class`.
        kinds: for `dps_pooled`, what is alike: a string or an integer for each key, in the order of `keys` or by key, such
            as the source, the topic or the level of a problem. None: all prompts are of one kind.
        seed: decides ties and draws.
        batch: how many settled prompts close a step. None: the size of the largest `take`; while prompts were only taken
            one by one, the largest number that was in flight.
        states: what makes a group unsolved, partial or solved: `StateSettings`, its settings, or the name of its rule.
            Write "variation" for rewards without right and wrong.
        threshold: a response whose accuracy is not reported is right when its reward is this or more.
        settings: of the method, such as `rest=10` or `decay=0.9`, but not `start` and what goes with it, which needs files.

    Raises:
        SamplerError: keys or kinds cannot be used.
        ConfigError: there is no such method, it has no such setting, or the value of one is wrong.
    """

    def __init__(
        self,
        keys: Iterable[Hashable],
        group_size: int = 8,
        method: str = "dps_pooled",
        kinds: Mapping[Hashable, Kind] | Sequence[Kind] | None = None,
        seed: int = 0,
        *,
        batch: int | None = None,
        states: StateSettings | Mapping[str, Any] | str | None = None,
        threshold: float = 1.0,
        **settings: Any,
    ) -> None:
        if batch is not None and batch < 1:
            raise ConfigError(f"batch={batch}: write 1 or more, or None")
        keys = keys if isinstance(keys, (Sequence, np.ndarray)) else list(keys)
        self._recipe = Recipe.of(method, settings, seed, group_size, states)
        self._table = KeyTable(keys)
        self._kinds = kinds_of(self._table, keys, kinds)
        self._batch, self._threshold = batch, float(threshold)
        self._selector = PoolSelector(self._recipe, Pool.of(self._table, self._kinds))
        self._lock = threading.RLock()
        self._in_flight: dict[int, float] = {}  # P(partial) when it was taken, by id, oldest first
        self._open = OpenStep()
        self._measures = Measures()
        self._largest_take = self._most_in_flight = 0
        self._has_warned = False

    def __len__(self) -> int:
        """How many prompts the pool has."""
        return len(self._table)

    # --- choosing ---------------------------------------------------------------------------------

    def take(self, n: int) -> list[Any]:
        """Returns the keys of the `n` best prompts, distinct and best first. They are in flight until reported or released.

        Prompts in flight, and those reported in the open step, are not taken. Where fewer than `n` others are left, the
        open step is closed first, which frees its prompts. If that is not enough, the batch is filled with prompts that
        are in flight, those taken longest ago first; a warning says so once, and `metrics()["retaken"]` counts them.

        Raises:
            SamplerError: the pool has fewer than `n` prompts.
        """
        n = operator.index(n)
        if not 0 <= n <= len(self):
            raise SamplerError(
                f"take({n}): the pool has {len(self)} prompts; take a number from 0 to that"
            )
        with self._lock:
            if n > len(self) - len(self._busy()) and len(self._open):
                self._close()
            busy = self._busy()
            free = min(n, len(self) - len(busy))
            chosen = self._selector.select(free, busy)
            taken = dict(
                zip(chosen.ids.tolist(), chosen.predicted[:, PARTIAL].tolist(), strict=True)
            )
            again = list(self._in_flight)[: n - free]
            for identity in again:
                taken[identity] = self._in_flight.pop(identity)
            self._say_retaken(len(again))
            self._in_flight.update(taken)
            self._largest_take = max(self._largest_take, n)
            self._most_in_flight = max(self._most_in_flight, len(self._in_flight))
            return self._table.keys_of(np.array(list(taken), dtype=np.int64))

    def _busy(self) -> NDArray[np.int64]:
        """Ids in flight, and those reported in the open step, ascending."""
        return np.array(sorted(self._open.ids.union(self._in_flight)), dtype=np.int64)

    def _say_retaken(self, count: int) -> None:
        self._measures.count("retaken", count)
        if count and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{count} prompts were taken again while they are in flight: nearly all {len(self)} prompts of the pool "
                "are. Report or release what was taken, take fewer at a time, or give a larger pool.",
                RuntimeWarning,
                stacklevel=3,
            )

    @property
    def in_flight(self) -> list[Any]:
        """The keys that were taken and neither reported nor released, those taken longest ago first."""
        with self._lock:
            return self._table.keys_of(np.array(list(self._in_flight), dtype=np.int64))

    # --- learning ---------------------------------------------------------------------------------

    def report(
        self,
        keys: Iterable[Hashable],
        rewards: Iterable[ArrayLike],
        accuracies: Iterable[ArrayLike] | None = None,
    ) -> None:
        """Takes in the rewards of some groups, which are in flight no longer.

        Groups may come in any order, one at a time or by the batch, and late: then they count for the step that is open
        when they come. A key may occur several times in a call or in a step; its responses are joined. A key that is not
        in flight is accepted, and counted in `metrics()["late"]`.

        Args:
            keys: n of them.
            rewards: (n, k), or n sequences of any lengths. NaN: the response failed, and nothing is learned from it. A
                group in which all failed is released.
            accuracies: in [0, 1], as `rewards`; a response is right when its accuracy is 1. None: it is right when its
                reward is `threshold` or more.

        Raises:
            SamplerError: a key is not in the pool, or rewards or accuracies do not fit. Nothing of the call is taken in.
        """
        ids = self._table.ids_of(keys)
        given = list(rewards)
        right = [None] * len(ids) if accuracies is None else list(accuracies)
        if not len(ids) == len(given) == len(right):
            raise SamplerError(
                f"{len(ids)} keys came with {len(given)} groups of rewards"
                + ("" if accuracies is None else f" and {len(right)} of accuracies")
                + "; give one for each key"
            )
        groups = [
            scored_responses(each, its, self._threshold)
            for each, its in zip(given, right, strict=True)
        ]
        with self._lock:
            distinct = list(dict.fromkeys(ids))
            late = [i for i in distinct if i not in self._in_flight and i not in self._open.settled]
            self._measures.count("late", len(late))
            for identity in distinct:
                self._open.settle(identity, self._in_flight.pop(identity, np.nan))
            scored = set()
            for identity, group in zip(ids, groups, strict=True):
                if len(group.rewards):
                    self._open.add(identity, group)
                    scored.add(identity)
            self._measures.count("failed", len(distinct) - len(scored))
            self._close_if_full()

    def release(self, keys: Iterable[Hashable] | None = None) -> None:
        """Gives back prompts that were taken and will not be reported; they may be taken again.

        keys: None: all that are in flight. A key that is not in flight is left as it is.

        Raises:
            SamplerError: a key is not in the pool.
        """
        ids = None if keys is None else self._table.ids_of(keys)
        with self._lock:
            free = [i for i in (self._in_flight if ids is None else ids) if i in self._in_flight]
            for identity in dict.fromkeys(free):
                self._open.settle(identity, self._in_flight.pop(identity))
                self._measures.count("released")
            self._close_if_full()

    def tick(self) -> bool:
        """Closes the open step, however few groups it has. Returns False, and does nothing, where it has none."""
        with self._lock:
            return self._close()

    def _close_if_full(self) -> None:
        batch = self._batch
        if batch is None:
            batch = self._largest_take if self._largest_take > 1 else self._most_in_flight
        if len(self._open.settled) >= max(batch, 1):
            self._close()

    def _close(self) -> bool:
        step, self._open = self._open, OpenStep()
        if not len(step):
            return False
        rule, with_rewards = self._recipe.states, self._recipe.settings.learns_from_rewards
        observation = step.observation(rule, with_rewards)
        first, drawn = self._selector.observe(observation)
        predicted = step.predicted(observation.ids.tolist())
        kinds = self._selector.pool.kinds(observation.ids)
        self._measures.note(observation, predicted, first, drawn, kinds)
        return True

    # --- looking ----------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """Returns numbers worth a curve. Those that cannot be computed yet are left out.

        | name | meaning |
        |---|---|
        | `effective_ratio`, `effective_ratio_mean` | share of partial groups, of the last step and of all |
        | `uniform_ratio` | what uniform sampling would have as its effective ratio, see below |
        | `predicted_ratio`, `foretold_ratio` | mean of P(partial) when the prompts of the last step were taken, and the share \
of them that was partial: equal where beliefs are calibrated; `..._mean` of all steps |
        | `brier`, `brier_mean` | mean of (P(partial) - partial)^2; 0.25 is that of a coin |
        | `distinct`, `coverage` | prompts observed at least once, and their share of the pool |
        | `steps`, `groups` | steps closed, and groups observed in them |
        | `in_flight`, `open_groups` | prompts in flight, and groups in the open step |
        | `failed`, `released`, `late`, `retaken` | reports without any reward; prompts given back; prompts that were not in \
flight when reported, nor reported in the open step; prompts taken again while in flight |

        `uniform_ratio` is estimated from *first visits*. Nothing tells prompts never observed of one kind apart but a seeded
        hash, so first visits are a uniform sample of their kind, with every built-in method. Each stands for as many
        prompts as its kind has, divided by the first visits to it in the last 20 steps (inverse propensity, normalised to
        the kinds visited). So it is about prompts that were not trained on. It is left out with fewer than 30 such visits,
        where the kinds visited are less than half of the pool, for a method of your own, and after a state that knows
        something of prompts never observed. For `uniform`, all groups of these steps count.
        """
        with self._lock:
            return {
                **self._measures.metrics(self._selector.pool.sizes),
                "in_flight": float(len(self._in_flight)),
                "open_groups": float(len(self._open)),
            }

    # --- keeping ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state: a flat dict of NumPy arrays, numbers and strings.

        `numpy.savez(file, **state)` writes it, and `numpy.load(file)` reads it without pickle. It holds 8 bytes for each
        key of the pool (12 with kinds) and what is known of prompts seen, reports of the open step included.
        """
        with self._lock:
            return Saved(
                self._recipe.method,
                self._selector.pool,
                self._selector.snapshot(),
                self._open.state_dict(),
                self._measures.state_dict(),
                np.array([self._largest_take, self._most_in_flight], dtype=np.int64),
                np.array(sorted(self._in_flight), dtype=np.int64),
            ).state_dict()

    def load_state_dict(self, state: Mapping[str, Any], *, continues: bool = False) -> Resumed:
        """Goes on from a state. What this sampler knew before is forgotten.

        Keys may have come and gone since it was saved: those that came were never seen, and those that went are dropped;
        what was learned from them stays. Prompts in flight were lost with their process and are free, unless the trainer
        `continues` their rollouts: then they stay in flight.

        Raises:
            CheckpointError: it is of another method, or of other settings. This sampler is unchanged.
        """
        saved = Saved.of(state)
        saved.check(self._recipe.method, has_kinds=self._kinds is not None)
        before = saved.pool.ids[~among(saved.pool.ids, saved.pool.gone)]
        known = among(observed_in(saved.selector), self._table.ids)
        pool = Pool.of(self._table, self._kinds, saved.pool.names)
        selector = PoolSelector.resumed(self._recipe, pool, saved.pool, saved.selector)
        in_flight = saved.in_flight[among(saved.in_flight, self._table.ids)].tolist()
        with self._lock:
            self._selector = selector
            self._in_flight = dict.fromkeys(in_flight, np.nan) if continues else {}
            self._open = OpenStep.restored(saved.open_step, self._table.ids)
            self._measures = Measures.restored(saved.measures)
            self._measures.total["distinct"] = float(known.sum())
            self._largest_take, self._most_in_flight = saved.sizes.tolist()
        return Resumed(
            added=int(np.count_nonzero(~among(self._table.ids, before))),
            dropped=int(np.count_nonzero(~among(before, self._table.ids))),
            known=int(known.sum()),
            freed=0 if continues else len(in_flight),
        )
