"""Errors that a user can cause or encounter. Each message says what was wrong, which value, and what to write instead.

Programs print the message without a traceback and exit with code 2.
"""

import errno

# Operating system errors that concern the user's files, folders and disks, not this program.
_FILE_ERRORS = (
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
    """Base class of the errors below; `except DPSError` catches all errors that this package raises on purpose."""


class ConfigError(DPSError, ValueError):
    """A setting is unknown, has the wrong type, is out of range, or conflicts with another setting."""


class DataError(DPSError, ValueError):
    """A data file is missing or malformed; the message names the file, the row and the column."""


class SamplerError(DPSError, ValueError):
    """A call to a `PromptSampler` cannot be right: an unknown key, rewards that do not fit it, more prompts than there are.
    The call has changed nothing."""


class FrameworkError(DPSError, ImportError):
    """A framework that `dps_ray.integrations` plugs into is missing, or lacks what the plug-in needs."""


class ModelError(DPSError, ValueError):
    """A model folder is missing or unsuitable: it lacks weights, a tokenizer or a chat template."""


class RewardError(DPSError, ValueError):
    """A reward function cannot be imported, or returned a value that is not a score."""


class ResponseError(RewardError):
    """The reward function did not return for a response: it hung, exceeded a limit, or ended its process."""


class EpisodeError(DPSError, ValueError):
    """An environment raised, or returned what is no messages or no reward."""


class TurnError(EpisodeError):
    """The environment did not return from a call: it hung, or ended its process."""


class ResourceError(DPSError, RuntimeError):
    """The machine or cluster lacks resources that the configuration asks for."""


class EngineError(DPSError, RuntimeError):
    """An actor failed or did not answer within its deadline; the message names it."""


class LearnerLostError(EngineError):
    """A learner rank died, which ends all ranks: the run rewinds to its last checkpoint."""


class TransferError(EngineError):
    """A transfer of weights to the engines failed; engines in it may hold a mix of old and new weights."""


class StaleError(DPSError, RuntimeError):
    """A call referred to an epoch, an incarnation or weights that the actor no longer has."""


class NonFiniteError(DPSError, ArithmeticError):
    """A loss, gradient or reward is NaN or infinite; the message names step and minibatch."""


class CheckpointError(DPSError, RuntimeError):
    """A checkpoint cannot be read or written, or was not made by this configuration."""


class OwnershipError(CheckpointError):
    """Another driver has claimed the run; this one must stop."""


def mendable(error: BaseException) -> str | None:
    """One line for the user about an error whose cause the user can fix; None for any other error."""
    if isinstance(error, DPSError):
        return str(error)
    if isinstance(error, OSError) and (error.errno in _FILE_ERRORS or error.filename is not None):
        what = error.strerror or str(error)
        return what if error.filename is None else f"{error.filename}: {what}"
    return None
