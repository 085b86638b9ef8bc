"""A simulated learner, to compare selection methods on pools of any size in seconds.

    success of prompt i = sigmoid(a_i (skill_topic(i) + own_i - d_i)),   k responses are Binomial

    s_i   = 2 sqrt(r_i (1 - r_i)) c(k_i) of each partial group of the batch, r_i its share of right responses
    c(k)  = (1 + NOISE / 8) / (1 + NOISE / k): what a group of k is worth beside one of 8, by the same signal as
            `dps_ray.selection.adaptive_rounds`
    n     = sum of s_i / (1 + reuse u_i),   u_i: how often the prompt was used lately
    gain  = rate sqrt(n / (n + half))       (other objectives have another s and a noise: `pipelines.simulation.objectives`)
    skill = skill + gain (shared + (1 - shared) 20 n_topic / n),   own_i = own_i + gain own s_i / sum of s

Without u, a method that returns to the same few hundred prompts would learn from them as from fresh ones,
which real training does not. n is how many fresh groups the batch is worth. Adam's step has the same length
whatever the gradient's scale, so more groups only lower its noise: the square root is the cosine between
a mean of n noisy gradients and the true one. docs/simulation.md says how this was fitted to real runs, and
where it fails.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray import PARTIAL
from dps_ray.beliefs.beta_rates import BetaRates
from dps_ray.beliefs.states import Observation, states_of
from dps_ray.selection.adaptive_rounds import NOISE
from dps_ray.selection.methods import Oracle
from dps_ray.selection.rounds import RoundRule
from dps_ray.selection.selector import Selector
from pipelines.simulation.objectives import Lesson, Objective, lesson
from pipelines.simulation.profiled import ProfiledSelector

# Of the 20 kinds of the arithmetic task: minus the logit of the chance that a demonstration of the start
# policy is right.
TOPICS = np.array(
    [-5.3, -4.6, -4.2, -3.9, 4.1, 6.0, 5.0, 3.1, 0.6, 0.7, 1.9, 2.0, 3.0, 4.0, 3.1, 4.0, 5.0, 6.0, 5.0, 4.0]
)  # fmt: skip
TEST_PROMPTS = 2_000
FITTED_SIZE = 8  # responses of the groups of the real runs


class Constants(NamedTuple):
    """What the prompts are like, and how fast the learner learns.

    start:           skill before training
    spread:          standard deviation of a prompt's difficulty around its topic's
    discrimination:  standard deviation of log a
    rate:            skill gained in a step whose gradient has no noise
    half:            fresh groups at which noise is as large as signal
    shared:          part of the gain that goes to every topic; the rest to those trained on
    own:             what the prompts of a batch gain for themselves, all together, in units of the gain
    reuse:           a prompt used u times lately teaches 1 / (1 + reuse u) of what it taught first
    memory:          part of u that is left after a step
    """

    start: float = -1.12
    spread: float = 1.7
    discrimination: float = 0.2
    rate: float = 0.16
    half: float = 23.0
    shared: float = 0.7
    own: float = 10.0
    reuse: float = 0.75
    memory: float = 0.96


REAL = Constants()  # fitted to real runs


@dataclass
class World:
    """Prompts as they are: topic int8 (N,), discrimination and difficulty float32 (N,)."""

    topic: NDArray[np.int8]
    discrimination: NDArray[np.float32]
    difficulty: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        prompts: int,
        seed: int,
        constants: Constants = REAL,
        *,
        hard: float = 0.0,
        easy: float = 0.0,
        test: bool = False,
    ) -> "World":
        """Prompts to train on, or to test on.

        hard, easy: shares that are never, or always, solved, whatever the skill.
        """
        rng = np.random.default_rng([seed, 2 if test else 1])
        topic = rng.integers(len(TOPICS), size=prompts, dtype=np.int8)
        difficulty = TOPICS[topic] + rng.normal(0, constants.spread, prompts)
        kind = rng.random(prompts)
        difficulty[kind < hard] = 1e3
        difficulty[kind > 1 - easy] = -1e3
        discrimination = rng.lognormal(0, constants.discrimination, prompts)
        return cls(topic, discrimination.astype(np.float32), difficulty.astype(np.float32))

    def __len__(self) -> int:
        return len(self.topic)


class Student:
    """What the policy can do, and how training changes it."""

    def __init__(self, world: World, constants: Constants = REAL) -> None:
        self.world = world
        self.constants = constants
        self.skill = np.full(len(TOPICS), constants.start)
        self._own = np.zeros(len(world), dtype=np.float32)
        self._used = np.zeros(len(world), dtype=np.float32)  # as of the step in `_used_at`
        self._used_at = np.zeros(len(world), dtype=np.int32)
        self._step = 0

    def success(self, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float64]:
        """Probability that a response to each of these prompts, or to every prompt, is right."""
        return success(self.world, self.skill, rows, self._own[rows])

    def train(
        self,
        rows: NDArray[np.int64],
        rates: NDArray[np.float64],
        sizes: NDArray[np.int64] | int = FITTED_SIZE,
    ) -> None:
        """One step of GRPO on these groups, distinct, with these shares of right responses, none of them 0 or 1, of so many."""
        size = 2 * np.sqrt(rates * (1 - rates))
        self.learn(rows, Lesson(size, size), sizes)

    def learn(
        self,
        rows: NDArray[np.int64],
        lesson: Lesson,
        sizes: NDArray[np.int64] | int = FITTED_SIZE,
    ) -> None:
        """One step on the groups of these prompts, distinct, of so many responses, which teach this."""
        constants = self.constants
        self._step += 1
        if not len(rows):
            return
        lately = self._used[rows] * constants.memory ** (self._step - self._used_at[rows])
        self._used[rows], self._used_at[rows] = lately + 1, self._step
        worth_of_size = (1 + NOISE / FITTED_SIZE) / (1 + NOISE / np.asarray(sizes))
        signal, noise = lesson.signal * worth_of_size, lesson.noise * worth_of_size
        fresh = signal / (1 + constants.reuse * lately)
        worth, spread = fresh.sum(), (noise / (1 + constants.reuse * lately)).sum()
        gain = constants.rate * np.sqrt(worth / (worth + constants.half * (spread / worth)))
        by_topic = np.bincount(self.world.topic[rows], fresh, minlength=len(TOPICS)) / worth
        self.skill += gain * (constants.shared + (1 - constants.shared) * len(TOPICS) * by_topic)
        self._own[rows] += gain * constants.own * signal / signal.sum()


def success(
    world: World,
    skill: NDArray[np.float64],
    rows: NDArray[np.int64] | slice = slice(None),
    own: NDArray[np.float32] | float = 0.0,
) -> NDArray[np.float64]:
    """P(right) of these prompts, for a policy of this skill by topic that was trained on them so far."""
    ability = skill[world.topic[rows]] + own - world.difficulty[rows]
    return 1 / (1 + np.exp(-np.clip(world.discrimination[rows] * ability, -40, 40)))


@dataclass
class Outcome:
    """What one simulated run showed, by step."""

    effective: list[float] = field(default_factory=list)  # partial groups trained on, of B
    rolled_out: list[float] = field(default_factory=list)  # partial groups, of all rolled out
    accuracy: list[float] = field(default_factory=list)  # on test prompts of the same kinds
    rollouts: list[int] = field(default_factory=list)  # responses, cumulative
    trained: list[int] = field(default_factory=list)  # groups trained on, cumulative
    distinct: int = 0  # prompts rolled out at least once


class Groups(NamedTuple):
    """What was rolled out: prompts int64 (n,), right and all responses of each, int64 (n,)."""

    rows: NDArray[np.int64]
    right: NDArray[np.int64]
    responses: NDArray[np.int64]

    @property
    def partial(self) -> NDArray[np.bool_]:
        return (self.right > 0) & (self.right < self.responses)


class Rollout(NamedTuple):
    """How a step rolls out.

    batch_size, group_size: B prompts, k responses to each
    max_gen_batches:        above 1 the batch is refilled with others until it has B partial groups, and only the first B of
                            those are trained on: Dynamic Sampling, when the selector is uniform
    refill:                 batch: each refill is another B prompts. missing: as many as partial groups are missing; the
                            limit is then `max_gen_batches` x B prompts
    rest:                   steps for which a prompt is left alone once it was rolled out; fewer where the pool is too small
    rounds:                 divides groups into rounds; None: one round
    """

    batch_size: int = 256
    group_size: int = 8
    max_gen_batches: int = 1
    refill: Literal["batch", "missing"] = "batch"
    rest: int = 0
    rounds: RoundRule | None = None


def simulate(
    selector: Selector,
    *,
    steps: int,
    seed: int = 0,
    constants: Constants = REAL,
    hard: float = 0.0,
    easy: float = 0.0,
    rollouts: int | None = None,
    objective: Objective = "grpo",
    **rollout: Any,
) -> Outcome:
    """Trains a student for so many steps on what the selector picks from prompts 0 to N - 1.

    rollouts: stops earlier, after the step in which so many responses were generated
    objective: what the groups teach, and which of them train
    rollout: the fields of `Rollout`
    """
    how = Rollout(**rollout)
    prompts = len(selector)
    student = Student(World.of(prompts, seed, constants, hard=hard, easy=easy), constants)
    test = World.of(TEST_PROMPTS, seed, constants, hard=hard, easy=easy, test=True)
    outcome, total, trained = Outcome(), 0, 0
    if isinstance(selector, ProfiledSelector):
        total = selector.profile(student.success())
    resting: deque[NDArray[np.int64]] = deque(maxlen=how.rest)
    for step in range(steps):
        if isinstance(selector, Oracle):
            selector.set_rates(student.success())
        while sum(map(len, resting)) + how.batch_size > prompts:
            resting.popleft()
        rng = np.random.default_rng([seed, 3, step])
        groups = _roll_out(selector, student, how, resting, rng)
        resting.append(groups.rows)
        states = states_of(groups.right, groups.responses)
        selector.observe(Observation(groups.rows, states, groups.right, groups.responses))
        found = lesson(
            objective,
            groups.right,
            groups.responses,
            student.success(groups.rows),
            _expected(student, groups.rows) if objective == "ppo" else np.zeros(len(groups.rows)),
        )
        useful = np.flatnonzero(found.noise > 0)[: how.batch_size]
        taught = Lesson(found.signal[useful], found.noise[useful])
        student.learn(groups.rows[useful], taught, groups.responses[useful])
        total += int(groups.responses.sum())
        trained += len(useful)
        outcome.effective.append(len(useful) / how.batch_size)
        outcome.rolled_out.append(float(np.mean(states == PARTIAL)))
        outcome.accuracy.append(float(success(test, student.skill).mean()))
        outcome.rollouts.append(total)
        outcome.trained.append(trained)
        if rollouts is not None and total >= rollouts:
            break
    outcome.distinct = int(np.count_nonzero(selector.times_sampled(np.arange(prompts))))
    return outcome


def _expected(student: Student, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean success rate of the topic of each of these prompts."""
    topics = student.world.topic
    total = np.bincount(topics, student.success(), minlength=len(TOPICS))
    mean: NDArray[np.float64] = total / np.maximum(np.bincount(topics, minlength=len(TOPICS)), 1)
    return mean.take(topics[rows])


def _roll_out(
    selector: Selector,
    student: Student,
    how: Rollout,
    resting: deque[NDArray[np.int64]],
    rng: np.random.Generator,
) -> Groups:
    """The groups of a step, in the order of selection."""
    none = np.empty(0, dtype=np.int64)
    groups = Groups(none, none, none)
    others = np.concatenate([none, *resting])
    wanted, most = how.batch_size, how.batch_size * how.max_gen_batches
    while True:
        left = len(selector) - len(groups.rows) - len(others)
        size = min(wanted, left, most - len(groups.rows))
        chosen = selector.select(size, exclude=np.concatenate([groups.rows, others]))
        sampled = _sample(student.success(chosen.ids), chosen.predicted, how, rng)
        groups = Groups(*map(np.concatenate, zip(groups, (chosen.ids, *sampled), strict=True)))
        missing = how.batch_size - int(np.count_nonzero(groups.partial))
        if missing <= 0 or size == left or len(groups.rows) >= most:
            return groups
        wanted = missing if how.refill == "missing" else how.batch_size


def _sample(
    rates: NDArray[np.float64],
    predicted: NDArray[np.float64],
    how: Rollout,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right and all responses of groups of prompts with these solve rates and predicted states."""
    if how.rounds is None:
        return rng.binomial(how.group_size, rates), np.full(len(rates), how.group_size)
    prior = BetaRates.of_predicted(predicted, how.group_size)
    more = how.rounds.first(prior)
    right, responses = np.zeros_like(more), np.zeros_like(more)
    while more.any():
        right += rng.binomial(more, rates)
        responses += more
        more = how.rounds.next(prior, right, responses)
    return right, responses
