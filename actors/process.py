"""What every actor's process needs before its libraries are imported, where its output goes, and how its children end.

The variables must be set before torch, vLLM or DeepSpeed are imported, hence Ray's runtime
environment and not code of the actor.
"""

import os
import socket
import subprocess
from pathlib import Path

from dps_ray import failpoints

_ALWAYS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def environment(*, threads: int | None, extra: dict[str, str] | None = None) -> dict[str, object]:
    """Ray `runtime_env` of an actor.

    Args:
        threads: OpenMP threads on a CPU; None on a GPU. Threads wait passively: ones that spin
            starve the actors that work while they wait (nine times fewer tokens a second).
    """
    cpu = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    return {"env_vars": {**_ALWAYS, **cpu, **failpoints.environment(), **(extra or {})}}


def log_to(folder: Path, name: str) -> None:
    """Send this process's output, and that of its libraries, to `folder/name.log`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def take_children_along() -> None:
    """From now on what this process starts is killed when it ends, even by SIGKILL.

    It becomes the leader of a process group, which its children are in too. Outside of that a shell waits until
    the pipe closes that only this process holds open, and then kills the group.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    reading, writing = os.pipe()
    os.register_at_fork(after_in_child=lambda: os.close(writing))
    subprocess.Popen(
        ["/bin/sh", "-c", 'read _; kill -s KILL -- "-$0"', str(os.getpgrp())],
        stdin=reading,
        start_new_session=True,
    )
    os.close(reading)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])
