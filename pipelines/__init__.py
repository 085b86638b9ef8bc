"""The programs, and the trainer that `pipelines.grpo_dps` is a thin user of.

`Trainer` and `Callback` are imported on first use: they need Ray, and other programs here do without.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.training.trainer import Callback, StepResult, Trainer

__all__ = ["Callback", "StepResult", "Trainer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipelines.training import trainer

    return getattr(trainer, name)
