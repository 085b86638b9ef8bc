"""What the built-in start policies are made from: their characters, and recipes for architecture and training."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from dps_ray.tasks.arithmetic import Level
from pipelines.data.demonstrations import TASKS
from pipelines.data.prepare import calculator, guess_the_number

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
VOCABULARY = {token: i for i, token in enumerate((*SPECIAL, *"0123456789+-*=,;()? "))}
PAD, BOS, EOS = (VOCABULARY[token] for token in SPECIAL[:3])
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Recipe:
    """Everything that a policy depends on. Its hash names the policy's folder."""

    seed: int = 0
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    tied: bool = False
    # Levels of the task. By default: chains of one to six steps, with any number of products.
    demonstrated: tuple[Any, ...] = tuple(Level(n, m) for n in range(1, 7) for m in range(n + 1))
    steps: int = 500
    batch_size: int = 64  # demonstrations per step
    learning_rate: float = 3e-3
    warmup: int = 50  # steps until the learning rate reaches its peak; it then falls to a tenth

    task: str = "arithmetic"  # in `demonstrations.TASKS`

    def folder_name(self) -> str:
        training = asdict(self)
        del training["task"]  # the levels and slips of a task are its own
        text = json.dumps([training, VOCABULARY, CHAT_TEMPLATE, TASKS[self.task].slips])
        return "policy-" + hashlib.sha256(text.encode()).hexdigest()[:12]


RECIPES = {
    "builtin:start-policy": Recipe(),
    "builtin:calculator-policy": Recipe(
        task="calculator", demonstrated=("+", "-", "*", *calculator.LEVELS), steps=900
    ),
    "builtin:guess-the-number-policy": Recipe(
        task="guess_the_number", demonstrated=guess_the_number.LEVELS, steps=600
    ),
}
"""The start policies that `model.path` may name."""
