"""What the built-in start policy is made from: its characters, and a recipe for its architecture and training."""

import hashlib
import json
from dataclasses import asdict, dataclass

from dps_ray.tasks import arithmetic
from dps_ray.tasks.arithmetic import Level

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
    # Chains of one to six steps, with any number of products.
    demonstrated: tuple[Level, ...] = tuple(Level(n, m) for n in range(1, 7) for m in range(n + 1))
    steps: int = 500
    batch_size: int = 64  # demonstrations per step
    learning_rate: float = 3e-3
    warmup: int = 50  # steps until the learning rate reaches its peak; it then falls to a tenth

    def folder_name(self) -> str:
        slips = (arithmetic.SLIP, arithmetic.SLIP_TO_SUM)
        text = json.dumps([asdict(self), VOCABULARY, CHAT_TEMPLATE, slips])
        return "policy-" + hashlib.sha256(text.encode()).hexdigest()[:12]
