"""Program exit on errors that the user can fix: a one-line message and exit code 2."""

import sys

from dps_ray.errors import DPSError, mendable


def refused(error: DPSError | OSError) -> int:
    """Prints the error and returns exit code 2. Raises the error again if the user cannot fix its cause."""
    said = mendable(error)
    if said is None:
        raise error
    print(f"error: {said}", file=sys.stderr)
    return 2
