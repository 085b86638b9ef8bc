"""The learner: the DeepSpeed ranks that hold the policy in training, as one object with one verb a
phase. What each rank does is in `learner_rank.py`."""

from pathlib import Path
from typing import Any

import ray

from actors.calls import collect
from actors.learner_rank import LearnerRank
from actors.process import environment
from dps_ray.config import Config
from dps_ray.trajectories import Trajectories


class Learner:
    """The group of ranks as one object."""

    def __init__(self, config: Config, model: str):
        pool = config.resources.learner
        on_cpu = pool.gpus_per_rank == 0
        self._timeouts = config.timeouts
        self._wait = config.resources.wait
        self._ranks = [
            LearnerRank.options(  # type: ignore[attr-defined]
                num_cpus=pool.cpus,
                num_gpus=pool.gpus_per_rank,
                runtime_env=environment(
                    threads=config.learner.threads if on_cpu else None,
                    extra={"DS_ACCELERATOR": "cpu"} if on_cpu else None,
                ),
            ).remote(config, model, rank)
            for rank in range(pool.ranks)
        ]
        self.version = 0  # of the weights, counted in training steps

    def start(self) -> None:
        address, port = self._call_first("address")
        self._call("start", address, port, timeout=self._wait)

    def connect(self, engines: list[Any], transfer: str) -> None:
        address, port = self._call_first("address")
        self._call("connect", engines, address, port, transfer, timeout=self._timeouts.publish)

    def train(self, trajectories: Trajectories, step: int) -> dict[str, float]:
        """Train on one batch; the weights are then version `step`.

        Returns:
            verl's `actor/...` metrics, and `rollout/logprob_diff_mean`: how far the engines'
            log-probabilities are from the learner's, in nats a token.
        """
        shared = ray.put(trajectories)
        metrics = self._call("train", shared, step, timeout=self._timeouts.train)
        self.version = step
        return dict(metrics[0])

    def publish(self) -> None:
        """Give the engines the current weights and their version."""
        self._call("publish", self.version, timeout=self._timeouts.publish)

    def logprobs(self, trajectories: Trajectories) -> list[float]:
        return list(self._call("logprobs", ray.put(trajectories), timeout=self._timeouts.train)[0])

    def save(self, folder: Path) -> None:
        self._call("save", folder, timeout=self._timeouts.train)

    def load(self, folder: Path, version: int) -> None:
        self._call("load", folder, timeout=self._timeouts.train)
        self.version = version

    def _call_first(self, method: str) -> Any:
        return collect(
            [getattr(self._ranks[0], method).remote()], self._wait, "learner rank", method
        )[0]

    def _call(self, method: str, *arguments: Any, timeout: float) -> list[Any]:
        calls = [getattr(rank, method).remote(*arguments) for rank in self._ranks]
        return collect(calls, timeout, "learner rank", method)
