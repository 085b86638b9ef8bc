"""What a process started ends with it, whatever ends it."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

# Forks one child, which inherits every open file, and starts another, which gets none.
PARENT = """
import os, subprocess, time
from actors.process import take_children_along
take_children_along()
forked = os.fork()
if forked == 0:
    time.sleep(1000)
started = subprocess.Popen(["sleep", "1000"]).pid
print(forked, started, flush=True)
{then}
"""


@pytest.mark.parametrize("then", ["time.sleep(1000)", "os._exit(0)"])
def test_children_end_with_their_parent(then):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(then=then)], stdout=subprocess.PIPE, text=True
    )
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    if "sleep" in then:
        parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(lives(child) for child in children):
        time.sleep(0.01)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # which nobody may reap in a container
    except psutil.NoSuchProcess:
        return False
