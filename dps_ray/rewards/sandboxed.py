"""Whether this process scores within a sandbox's limits (see `dps_ray.rewards.sandbox`)."""

_here = False


def enter() -> None:
    """Note that this process has limits, and a parent that kills it when it exceeds them."""
    global _here
    _here = True


def here() -> bool:
    """Whether `enter` was called in this process or, before the fork, in its parent."""
    return _here
