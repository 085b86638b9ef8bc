"""The process of an actor: its environment variables, its log, and the end of its children.

The variables must be set before torch, vLLM or DeepSpeed are imported. So they are in Ray's runtime environment and not
in the code of the actor.
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
    """Return the Ray `runtime_env` of an actor.

    Args:
        threads: OpenMP threads on a CPU; None on a GPU. Threads wait passively: threads that spin while they wait
            take the CPU from actors that work (nine times fewer tokens a second).
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
    """Make the children of this process end with it, even if it is killed by SIGKILL.

    The process becomes the leader of a process group, to which its children belong. A shell outside the group waits until
    a pipe closes that only this process holds open, and then kills the group.
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
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("", 0))
        return int(s.getsockname()[1])
