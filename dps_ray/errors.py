"""The errors a user can cause or meet. Each message names what was wrong, which value, and what to write instead.

Programs print the message alone, without a traceback, and exit with code 2.
"""

import errno
import os

# Of the system's errors, those that say something of the user's files, folders and disks, and not of this program.
_OF_FILES = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
)


class DPSError(Exception):
    """Everything below; `except DPSError` catches what this package raises on purpose."""


class ConfigError(DPSError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another."""


class DataError(DPSError, ValueError):
    """A data file is missing or malformed; the message names the file, the row and the column."""


class ModelError(DPSError, ValueError):
    """A model folder is missing or cannot serve the job (no weights, no tokenizer, no chat template)."""


class RewardError(DPSError, ValueError):
    """A reward function cannot be imported, or returned something that is no score."""


class ResponseError(RewardError):
    """The reward function did not return on a response: it hung, needed too much, or ended its process."""


class ResourceError(DPSError, RuntimeError):
    """The machine or cluster lacks what the configuration asks for."""


class EngineError(DPSError, RuntimeError):
    """An actor failed or did not answer within its deadline; the message names it."""


class LearnerLostError(EngineError):
    """A rank of the learner is gone, and with it the group: the run goes back to its last checkpoint."""


class TransferError(EngineError):
    """Weights did not reach the engines; those of this transfer may hold some old and some new."""


class StaleError(DPSError, RuntimeError):
    """A call of an epoch, for an incarnation or about weights that are no longer the actor's."""


class NonFiniteError(DPSError, ArithmeticError):
    """A loss, gradient or reward is NaN or infinite; the message names step and minibatch."""


class CheckpointError(DPSError, RuntimeError):
    """A checkpoint cannot be read or written, or was not made by this configuration."""


class OwnershipError(CheckpointError):
    """Another driver has claimed the run; this one must stop."""


def mendable(error: BaseException) -> str | None:
    """What a program says of this error, in a line, where the user can mend what caused it; else None."""
    if isinstance(error, DPSError):
        return str(error)
    if isinstance(error, OSError) and (error.errno in _OF_FILES or error.filename is not None):
        what = error.strerror or str(error)
        return what if error.filename is None else f"{os.fspath(error.filename)}: {what}"
    return None
