"""The identity of a set of weights."""

from typing import NamedTuple


class WeightsId(NamedTuple):
    """Identifies the weights of a learner; no two sets of weights share one.

    After a rollback a training step is done again with other weights, so the version alone is not enough.
    As a string, for vLLM and in logs, it is `e0007.00000040`.
    """

    epoch: int
    """Epoch of the driver: it increases by one with every resume and every rollback."""
    version: int
    """Training step that made the weights."""

    def __str__(self) -> str:
        return f"e{self.epoch:04}.{self.version:08}"

    @classmethod
    def parse(cls, text: str) -> "WeightsId":
        """Return the identity that this string was made from.

        Raises:
            ValueError: it is not of the form `e0007.00000040`.
        """
        epoch, dot, version = text.removeprefix("e").partition(".")
        if not (text.startswith("e") and dot and epoch.isdecimal() and version.isdecimal()):
            raise ValueError(f"weights {text!r}: expected a name such as e0007.00000040")
        return cls(int(epoch), int(version))


START = WeightsId(0, 0)
"""The weights of the start model, before an engine has received any from a learner (epochs begin at 1)."""
