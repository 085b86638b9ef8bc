"""How benchmarks write what they measured several times."""

from collections.abc import Sequence

import numpy as np


def spread(values: Sequence[float], how: str) -> str:
    """Median, lowest and highest of the repeats: `1.52 (1.40 to 1.61)` for how = "{:.2f}"."""
    middle, low, high = (how.format(f(values)) for f in (np.median, min, max))
    return f"{middle} ({low} to {high})"
