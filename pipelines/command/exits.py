"""How programs end on what the user can mend: one line and exit code 2."""

import sys

from dps_ray.errors import DPSError, mendable


def refused(error: DPSError | OSError) -> int:
    """Say what is wrong, and return the exit code. An error that the user cannot mend is raised again."""
    said = mendable(error)
    if said is None:
        raise error
    print(f"error: {said}", file=sys.stderr)
    return 2
