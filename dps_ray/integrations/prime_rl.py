"""prime-rl: a `TaskSampler` for the curriculum of an environment.

dispatcher ──next──> DPSSampler.take(1) ──task──> rollouts ──group──> Curriculum.on_result ──> DPSSampler.observe

prime-rl 0.8 lets in its own samplers alone; `examples/prime_rl/custom_sampler.patch` adds `type = "custom"`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dps_ray.errors import ConfigError, FrameworkError
from dps_ray.integrations.rows import RowSampler, packed, unpacked

try:
    from prime_rl.orchestrator.curriculum.samplers.base import TaskSampler
except ImportError as error:
    raise FrameworkError(
        "dps_ray.integrations.prime_rl needs the curricula of prime-rl 0.8, which cannot be imported "
        f"({error}); it comes from https://github.com/PrimeIntellect-ai/prime-rl"
    ) from error


class DPSSampler(TaskSampler):
    """Gives the task that `PromptSampler` chooses. Tasks are known by their `key`.

    Args:
        tasks: all of them; a stream without end cannot be chosen from.
        group_size: rollouts of a task, `orchestrator.group_size`.
        batch: groups of a step, `orchestrator.batch_size / group_size`. When as many were reported, beliefs move on by one
            step of the policy. None: the largest number that was in flight.
        lost_after: a task that was given and not reported is free again when this many others were given since. prime-rl
            says nothing of groups that it drops as stale. None: 16 batches.
        options: arguments of `PromptSampler`. `kinds` names a field of the tasks' data, such as `topic`.

    Raises:
        ConfigError: there is an option that cannot be used, or the tasks have no end.
        SamplerError: two tasks have the same key.
    """

    def __init__(
        self,
        tasks: Sequence[Any] | Iterator[Any],
        group_size: int = 8,
        *,
        batch: int | None = None,
        lost_after: int | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(tasks, Sequence):
            raise ConfigError(
                "DPSSampler chooses among all tasks, and this taskset is a stream without end; write "
                'sampler = { type = "standard" }, or give the taskset a length'
            )
        self.tasks = tuple(tasks)
        self.rows = RowSampler(
            len(self.tasks), self._column, group_size, {"key": "key", **options}, batch=batch
        )
        self._lost_after = lost_after or 16 * (batch or 64)
        # The number of its draw, by the key of a task in flight, oldest first.
        self._given: dict[str, int] = {}
        self._draws = 0

    def _column(self, name: str) -> list[Any]:
        if name == "key":
            return [task.key for task in self.tasks]
        for task in self.tasks:
            if not hasattr(task.data, name):
                raise ConfigError(
                    f"kinds={name}: the data of task {task.key} has no field of this name"
                )
        return [getattr(task.data, name) for task in self.tasks]

    def __next__(self) -> Any:
        """Returns the next task, which is in flight until its group is reported, or taken for lost."""
        lost = [key for key, draw in self._given.items() if self._draws - draw >= self._lost_after]
        self._forget(lost)
        self.rows.sampler.release(lost)
        (row,) = self.rows.take(1)
        task = self.tasks[row]
        self._forget([task.key])
        self._given[task.key] = self._draws
        self._draws += 1
        return task

    def _forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._given.pop(key, None)

    def observe(self, group: list[Any]) -> None:
        """Takes in a finished group. Rollouts that ended in an error teach nothing, and neither do agents that do not train."""
        key = group[0].task.key
        traces = [trace for episode in group for trace in episode.traces if trace.agent.trainable]
        rewards = [float("nan") if trace.has_error else float(trace.reward) for trace in traces]
        self._forget([key])
        self.rows.sampler.report([key], [rewards])

    def state_dict(self) -> dict[str, Any]:
        return packed(self.rows.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows.load_state_dict(unpacked(state))
        self._given = {}

    def metrics(self) -> dict[str, float]:
        """Returns the sampler's metrics. prime-rl logs them under `curriculum/ENVIRONMENT/sampler/`."""
        return self.rows.metrics()
