"""Named points at which a test has a process die, hang or fail: `fail_at("shard.apply.before", step=3)`.

Code passes a point with `failpoint("shard.apply.before", step=step)`, which does nothing unless a folder of
armed points is named by the environment variable DPS_RAY_FAILPOINTS; actors are given the driver's. A point
that was armed goes off once: the process that takes its file away is the one that fails, and its successor,
passing the same point, is not.

| name | where | given |
|---|---|---|
| `shard.apply.before`, `shard.apply.after` | around a shard's observation of a step | step, shard |
| `shard.start` | a shard's process has started | shard |
| `shard.restore` | before a shard goes to a checkpoint and the log after it | epoch, shard |
| `shard.save` | before a shard writes its snapshot | step, shard |
| `engine.start` | before an engine loads the model | engine |
| `engine.generate.before`, `engine.generate.after` | an engine was given prompts; has answers to them | seed, engine |
| `engine.prompt` | an engine was given this prompt | prompt |
| `engine.join` | an engine is about to join a transfer group | engine |
| `engine.sleep` | an engine is about to leave its card to the learner | engine |
| `engine.update` | an engine is about to take in weights | weights, engine |
| `engine.weights` | an engine is asked which weights it has | engine |
| `verifier.start` | before a verifier loads the reward function | verifier |
| `verifier.score` | a verifier was given groups | verifier |
| `learner.start` | before a rank meets the others and loads the model | epoch, rank |
| `learner.load` | before DeepSpeed loads a checkpoint | epoch, rank |
| `learner.send` | before a rank sends the weights of this name | weights, rank |
| `transfer.open`, `transfer.broadcast` | over gloo, before rank 0 opens the group of a transfer; before each of its broadcasts | weights |
| `learner.train.before`, `learner.train.after` | around a rank's optimizer steps | step, rank |
| `learner.save` | before a rank writes its checkpoint | step, rank |
| `learner.save.state` | as DeepSpeed collects and writes a rank's state | step, rank |
| `learner.save.weights` | as the whole weights are copied | step, rank 0 |
| `learner.loss` | action "nan": the loss of the next minibatch is NaN | step, rank |
| `driver.observe.before`, `driver.observe.after` | around the log entry of a step | step |
| `driver.commit.before`, `driver.commit.after` | around the writing of a manifest | step |
"""

import errno
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

VARIABLE = "DPS_RAY_FAILPOINTS"
Action = Literal["die", "hang", "freeze", "no-space", "error", "nan"]


class ArmedFailpoint:
    """A point that will go off once."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def went_off(self) -> bool:
        return not self._file.exists()


def fail_at(name: str, action: Action = "die", **where: object) -> ArmedFailpoint:
    """Arm a point: the first process to pass it, with these values among those it gives, fails.

    action: "die" is SIGKILL to itself, "hang" never returns, "freeze" is SIGSTOP to itself, "no-space"
    raises OSError(ENOSPC), "error" raises KeyError, "nan" has `failpoint` return True and leaves the rest to the code there.

    Raises KeyError unless DPS_RAY_FAILPOINTS names a folder.
    """
    folder = Path(os.environ[VARIABLE])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{len(list(folder.iterdir())):04}-{name}.json"
    aside = file.with_suffix(".writing")
    aside.write_text(json.dumps({"name": name, "action": action, "where": where}))
    aside.rename(file)
    return ArmedFailpoint(file)


def failpoint(name: str, **where: object) -> bool:
    """Fail here if this point is armed; whether it is, for those that do not end the process."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return False
    for file in sorted(Path(folder).glob(f"*-{name}.json")):
        try:
            armed = json.loads(file.read_text())
            if not _matches(armed["where"], where):
                continue
            file.rename(file.with_suffix(".gone"))
        except FileNotFoundError:  # another process took it
            continue
        _fail(armed["action"])
        return True
    return False


def environment() -> dict[str, str]:
    """What an actor's process needs to pass the points that the driver's tests arm."""
    return {VARIABLE: os.environ[VARIABLE]} if os.environ.get(VARIABLE) else {}


def _matches(armed: Mapping[str, object], given: Mapping[str, object]) -> bool:
    return all(given.get(key) == value for key, value in armed.items())


def _fail(action: Action) -> None:
    if action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "hang":
        while True:
            signal.pause()
    elif action == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "no-space":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "error":
        raise KeyError("failpoint")
