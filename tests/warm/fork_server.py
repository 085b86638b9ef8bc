"""A process that has imported the libraries that Ray's workers need, and forks itself into them.

    python -m tests.warm.fork_server SOCKET

    fork server (vLLM, DeepSpeed)
       └── one process for each job and node (Ray); a copy of it becomes a worker

Ray reads its job and node from the environment while it is imported, so it is imported once for each of these. The
project's own code is not imported here: each worker imports it for itself, from where its job says.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from collections import OrderedDict
from contextlib import suppress
from typing import Any, NoReturn

_LIBRARIES = (
    "compressed_tensors.offload",
    "deepspeed",
    "pyarrow.fs",
    "pyarrow.parquet",
    "pydantic",
    "transformers.models.llama.modeling_llama",
    "vllm.distributed.weight_transfer.factory",
    "vllm.entrypoints.llm",
    "vllm.model_executor.model_loader",
    "vllm.model_executor.models.llama",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.worker.cpu_worker",
)
_JOBS = 8  # processes that wait with Ray imported, at most


def main(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    _import_all_but_ray()
    _keep_shared()
    listener.listen(64)
    print("ready", flush=True)
    # The kernel reaps workers that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    of_jobs: OrderedDict[tuple[str, str], socket.socket] = OrderedDict()
    while True:
        connection, _ = listener.accept()
        with connection:
            message, files = _received(connection)
            environment = json.loads(message)["environment"]
            job = environment["RAY_JOB_ID"], environment["RAY_RAYLET_PID"]
            if job not in of_jobs:
                of_jobs[job] = _started(environment, [listener, connection, *of_jobs.values()])
            if len(of_jobs) > _JOBS:
                of_jobs.popitem(last=False)[1].close()
            socket.send_fds(of_jobs[job], [message], [connection.fileno(), *files])
            for file in files:
                os.close(file)


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while part := connection.recv(1 << 20):
        message += part
    return message, files


def _started(environment: dict[str, str], not_its_own: list[socket.socket]) -> socket.socket:
    """A process that makes the workers of one job on one node, by what it is sent through this socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() > 0:
        theirs.close()
        return ours
    for other in (ours, *not_its_own):
        other.close()
    os.environ.clear()
    os.environ.update(environment)
    import ray  # noqa: F401

    _keep_shared()
    while True:
        message, files, _, _ = socket.recv_fds(theirs, 1 << 20, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            theirs.close()
            _become(json.loads(message), files[1:])
        for file in files:
            os.close(file)


def _become(work: dict[str, Any], files: list[int]) -> NoReturn:
    """Run the worker. Its connection to `setup_worker.py` stays open as long as this process lives."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os.environ.clear()
        os.environ.update(work["environment"])
        os.chdir(work["folder"])
        sys.argv = work["arguments"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _keep_shared() -> None:
    """The garbage collector would write into every object, and so each worker would get a copy of all memory."""
    gc.collect()
    gc.freeze()


def _import_all_but_ray() -> None:
    sys.meta_path.insert(0, _WithoutRay)  # type: ignore[arg-type]
    for name in _LIBRARIES:
        importlib.import_module(name)
    sys.meta_path.remove(_WithoutRay)  # type: ignore[arg-type]


class _WithoutRay:
    """vLLM tries to import Ray for an executor that the engines here do not use."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "ray":
            raise ImportError("Ray is imported later, for each job")


if __name__ == "__main__":
    main(sys.argv[1])
