"""Prompts about pictures of coloured squares, and what a random policy gets right about them by chance."""

from io import BytesIO
from pathlib import Path

from PIL import Image

from dps_ray.prompts.files import write_prompts

COLOURS = ("red", "green", "blue", "yellow", "black", "purple")


def square(colour: str, width: int = 56, height: int = 56, kind: str = "PNG") -> bytes:
    """The encoded picture of a square on white."""
    picture = Image.new("RGB", (width, height), "white")
    picture.paste(colour, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    file = BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def row(colour: str, index: int = 0, images=None, text: str = "<image>Which colour?") -> dict:
    """One row of verl's schema."""
    if images is None:
        images = [square(colour, 56 + 28 * (index % 3), 56)]
    return {
        "data_source": "squares",
        "prompt": [{"role": "user", "content": text}],
        "reward_model": {"style": "rule", "ground_truth": colour},
        "extra_info": {"split": "train", "index": index},
        "images": [{"bytes": image, "path": None} for image in images],
    }


def write_squares(path: Path, count: int, first: int = 0) -> Path:
    rows = [row(COLOURS[i % len(COLOURS)], i) for i in range(first, first + count)]
    write_prompts(path, rows)
    return path


def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float:
    """1 if a letter of the colour's name occurs."""
    return float(any(letter in solution_str.lower() for letter in ground_truth))
