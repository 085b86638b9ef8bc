"""Prompts and simulated rollouts for the tests with verl: three levels, one of them partly solved."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RESPONSES = 4
RATE = {"easy": 1.0, "fitting": 0.5, "hard": 0.0}


def level(row: int) -> str:
    return list(RATE)[row % 3]


def write_rows(file: Path, count: int) -> str:
    """Prompts in verl's schema."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"problem {row}"}],
            "data_source": "test",
            "reward_model": {"style": "rule", "ground_truth": str(row)},
            "extra_info": {"index": f"{file.stem}-{row}", "level": level(row)},
        }
        for row in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


def rewards(infos, seed: int) -> list[float]:
    """A reward for each response to prompts with these `extra_info`."""
    rng = np.random.default_rng(seed)
    return [float(rng.random() < RATE[info["level"]]) for info in infos]
