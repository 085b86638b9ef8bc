"""How well the beliefs predicted a step: the confusion matrix and the numbers read off it.

Names are those of the published DPS recipe. Class 2 there is the second solve state, *partial*: states
are counted from 1 in metric names.
"""

import numpy as np
from numpy.typing import NDArray

from dps_ray.beliefs.states import PARTIAL


def confusion_matrix(
    predicted: NDArray[np.float64], states: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Counts, int64 (3, 3): rows are the states predicted (the likeliest), columns those then seen.

    predicted: float64 (n, 3); rows with NaN predict nothing and are left out. states: int (n,).
    """
    rows = ~np.isnan(predicted).any(axis=1)
    counts = np.zeros((3, 3), dtype=np.int64)
    np.add.at(counts, (predicted[rows].argmax(axis=1), states[rows]), 1)
    return counts


def prediction_metrics(
    predicted: NDArray[np.float64], states: NDArray[np.integer]
) -> dict[str, float]:
    """Accuracy over all states, precision, recall and F1 of *partial*, and the confusion matrix.

    `tasksample_hmmpred_cm/12` counts prompts predicted unsolved (1) and seen partial (2). A ratio whose
    denominator is 0 is left out, as is everything when nothing was predicted.
    """
    counts = confusion_matrix(predicted, states)
    if not counts.any():
        return {}
    hits = counts[PARTIAL, PARTIAL]
    ratios = {
        "predict_accuracy": (counts.trace(), counts.sum()),
        "precision_class2_micro": (hits, counts[PARTIAL].sum()),
        "recall_class2_micro": (hits, counts[:, PARTIAL].sum()),
        "f1_class2_micro": (2 * hits, counts[PARTIAL].sum() + counts[:, PARTIAL].sum()),
    }
    metrics = {f"tasksample_hmmpred/{name}": float(a / b) for name, (a, b) in ratios.items() if b}
    for row, column in np.ndindex(3, 3):
        metrics[f"tasksample_hmmpred_cm/{row + 1}{column + 1}"] = float(counts[row, column])
    return metrics
