"""Stands in for Ray's `setup_worker.py`: has the fork server make the worker, and lives as long as that does.

Ray starts this file for every worker, so it imports next to nothing.
"""

import json
import os
import socket
import sys

SOCKET = "DPS_RAY_FORK_SERVER"  # environment variable with the path of the server's socket
_CONTEXT = "--serialized-runtime-env-context="
_LANGUAGE = "--language="


def main(arguments: list[str]) -> None:
    context: dict[str, object] = {}
    for argument in arguments:
        if argument.startswith(_CONTEXT):
            context = json.loads(argument.removeprefix(_CONTEXT) or "{}")
    worker = [a for a in arguments if not a.startswith((_CONTEXT, _LANGUAGE))]
    work = {
        "arguments": worker,
        "environment": {**os.environ, **(context.get("env_vars") or {})},
        "folder": os.getcwd(),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        socket.send_fds(connection, [json.dumps(work).encode()], [0, 1, 2])
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # the end of the file: of the worker's life


if __name__ == "__main__":
    main(sys.argv[1:])
