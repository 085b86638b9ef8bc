"""Work of the learner's ranks that fails on all of them if it fails on one.

Writing may fail on one rank alone, as on a full disk, while the others go on to a collective, in which they would wait
for that rank. So an error that a rank raises between collectives is shared with all ranks before any of them gives up.
The rank's own log has the traceback.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from dps_ray.errors import CheckpointError, DPSError

T = TypeVar("T")


def on_every_rank(work: Callable[[], T], failed: str) -> list[T]:
    """Do this work, which contains no collectives, and return its result on each rank. If it fails on one rank, it fails
    on all.

    Raises:
        CheckpointError: the work raised an error on a rank. The message is `failed`, the rank and the reason.
    """
    result: T | None = None
    own: Exception | None = None
    try:
        result = work()
    except Exception as error:
        traceback.print_exc()
        own = error
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, (result, own and reason_of(own)))
    reasons = [f"rank {rank}: {why}" for rank, (_, why) in enumerate(outcomes) if why is not None]
    if reasons:
        raise CheckpointError(f"{failed} by the learner ({'; '.join(reasons)})") from own
    return [found for found, _ in outcomes]


@contextmanager
def noted(failures: list[Exception]) -> Iterator[None]:
    """Add an error raised in this context to `failures`, which are shared with all ranks later."""
    try:
        yield
    except Exception as error:
        failures.append(error)


def reason_of(error: Exception) -> str:
    """Return the text of an error for a message, with its type unless it is a DPSError."""
    return str(error) if isinstance(error, DPSError) else f"{type(error).__name__}: {error}"
