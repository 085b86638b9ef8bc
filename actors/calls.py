"""Waiting for actors, with a deadline that names who did not answer."""

from collections.abc import Sequence
from typing import Any

import ray

from dps_ray.errors import EngineError


def collect(calls: Sequence[Any], timeout: float, who: str, what: str) -> list[Any]:
    """Results of the calls, one to each actor of a kind, in their order.

    Args:
        who, what: for the error: kind of actor, and what it was to do.

    Raises:
        EngineError: an actor died, or gave no answer within `timeout` seconds.
        Exception: what a call itself raised.
    """
    try:
        return list(ray.get(list(calls), timeout=timeout))
    except ray.exceptions.GetTimeoutError:
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        late = [index for index, call in enumerate(calls) if call not in done]
        raise EngineError(f"{who} {late} did not {what} within {timeout:.0f} s") from None
    except ray.exceptions.RayActorError as error:
        raise EngineError(f"a {who} died while it was to {what}: {error}") from error
