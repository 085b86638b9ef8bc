"""Named points at which a test can make a process die, hang or fail: `fail_at("shard.apply.before", step=3)`.

The code calls `failpoint("shard.apply.before", step=step)` at such a point. The call does nothing unless the
environment variable DPS_RAY_FAILPOINTS names a folder of armed points; actors get the driver's value. An armed point
triggers once: the process that renames its file fails, and a restarted process that reaches the same point does not.

| name | where | values passed |
|---|---|---|
| `shard.apply.before`, `shard.apply.after` | around a shard's observation of a step | step, shard |
| `shard.start` | a shard's process has started | shard |
| `shard.restore` | before a shard restores a checkpoint and replays the log after it | epoch, shard |
| `shard.save` | before a shard writes its snapshot | step, shard |
| `engine.start` | before an engine loads the model | engine |
| `engine.generate.before`, `engine.generate.after` | before and after an engine generates responses to a request's prompts | seed, engine |
| `engine.prompt` | an engine received this prompt, or a round of its group that begins with this response, or this turn of an episode | prompt, first, turn |
| `engine.join` | an engine is about to join a transfer group | engine |
| `engine.sleep` | an engine is about to release its GPU to the learner | engine |
| `engine.update` | an engine is about to load new weights | weights, engine |
| `engine.weights` | an engine is asked which weights it has | engine |
| `verifier.start` | before a verifier loads the reward function | verifier |
| `verifier.score` | a verifier received so many responses to a prompt | verifier, responses |
| `environment.start` | before an actor loads the environment | environment |
| `environment.play` | an actor is to answer an episode that has had so many responses | environment, prompt_id, episode, responses |
| `learner.start` | before a rank joins the others and loads the model | epoch, rank |
| `learner.load` | before DeepSpeed loads a checkpoint | epoch, rank |
| `learner.send` | before a rank sends the weights of this name | weights, rank |
| `transfer.open`, `transfer.broadcast` | over gloo, before rank 0 opens a transfer's process group; before each of its broadcasts | weights |
| `learner.train.before`, `learner.train.after` | around a rank's optimizer steps | step, rank |
| `learner.save` | before a rank writes its checkpoint | step, rank |
| `learner.save.state` | as DeepSpeed collects and writes a rank's state | step, rank |
| `learner.save.weights` | as the full weights are copied | step, rank 0 |
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
    """A point that will trigger once."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def went_off(self) -> bool:
        return not self._file.exists()


def fail_at(name: str, action: Action = "die", **where: object) -> ArmedFailpoint:
    """Arms a point: the first process that reaches it with these values fails. The process may pass more values.

    action: "die" sends SIGKILL to the process itself; "hang" never returns; "freeze" sends SIGSTOP to the process
    itself; "no-space" raises OSError(ENOSPC); "error" raises KeyError; "nan" makes `failpoint` return True, and the
    code there produces the NaN.

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
    """Fails if this point is armed. Returns whether it was armed, if the action lets the process continue."""
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
    """Environment variables that make an actor's process use the armed points of the driver."""
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
