"""An engine's worker processes end with its actor, also one that is stuck: on GPUs it would keep the card."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from actors.calls import Lost, answer
from actors.engine_setup import EngineSetup, engine_environment
from actors.requests import Request, Sampling
from actors.rollout_engine import RolloutEngine
from dps_ray.config import settings
from dps_ray.weights import START

pytestmark = pytest.mark.slow

SAMPLING = Sampling(responses=1, temperature=1.0, top_p=1.0, max_tokens=200, seed="orphans")
PROMPTS = [Request(i, np.arange(4, 14, dtype=np.int32)) for i in range(100)]


def engine_of_two_processes() -> ray.actor.ActorClass:
    """As an engine on two GPUs; on a CPU no setting asks for it, and our transfer is known in one process only."""

    class TwoProcesses(RolloutEngine.__ray_metadata__.modified_class):
        def _llm_arguments(self, *arguments):
            return super()._llm_arguments(*arguments) | {
                "tensor_parallel_size": 2,
                "distributed_executor_backend": "mp",
                "weight_transfer_config": None,
            }

        def process(self) -> int:
            return os.getpid()

        def wait_in_a_collective(self, entered: Path) -> None:
            """Worker 1 waits for worker 0, which never comes."""

            def wait(worker):
                if worker.rank == 1:
                    from vllm.distributed import get_tp_group

                    entered.touch()
                    get_tp_group().barrier()

            self._llm.collective_rpc(wait)

    return ray.remote(concurrency_groups={"intake": 1})(TwoProcesses)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # which nobody may reap in a container
    except psutil.NoSuchProcess:
        return False


def start(folder: Path, policy: Path) -> tuple[ray.actor.ActorHandle, psutil.Process]:
    """The engine and its actor's process."""
    config = settings.load(
        None,
        [
            f"folder={folder}",
            "model.dtype=float32",
            "data.max_prompt_length=16",
            "rollout.max_response_length=200",
            "rollout.max_num_seqs=1",  # one response after another, so that most are still to come
            "rollout.threads=1",
        ],
    )
    engine = (
        engine_of_two_processes()
        .options(runtime_env=engine_environment(config))
        .remote(EngineSetup.of(config, str(policy), "gloo"), 0, 0)
    )
    return engine, psutil.Process(answer(engine.process.remote()))


def kill_and_wait_for_all(actor: psutil.Process, children: list[psutil.Process]) -> None:
    actor.send_signal(signal.SIGKILL)
    while any(lives(process) for process in [actor, *children]):
        time.sleep(0.01)


def test_an_engine_that_is_killed_while_it_generates_leaves_no_process(
    local_ray, tmp_path, tiny_policy
):
    engine, actor = start(tmp_path, tiny_policy)
    generation = engine.generate.remote(PROMPTS, SAMPLING, START, 0)
    assert len(answer(next(generation))) == 1
    children = actor.children(recursive=True)
    # Whether vLLM has given them a title or not, there are besides them a shell and multiprocessing's tracker.
    others = ("/bin/sh", "resource_tracker")
    commands = {child: " ".join(child.cmdline()) for child in children}
    workers = [c for c, command in commands.items() if not any(o in command for o in others)]
    assert len(workers) == 2, commands
    # Stuck, so that it does not see vLLM's pipe close that tells of the actor's end.
    workers[0].send_signal(signal.SIGSTOP)
    kill_and_wait_for_all(actor, children)
    assert isinstance(answer(engine.process.remote()), Lost)


def test_an_engine_that_is_killed_while_a_worker_waits_in_a_collective_leaves_no_process(
    local_ray, tmp_path, tiny_policy
):
    engine, actor = start(tmp_path, tiny_policy)
    entered = tmp_path / "entered"
    engine.wait_in_a_collective.remote(entered)
    while not entered.exists():
        time.sleep(0.01)
    kill_and_wait_for_all(actor, actor.children(recursive=True))
