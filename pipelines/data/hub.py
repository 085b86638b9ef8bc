"""Checks that a model given by name exists on the Hugging Face hub, once and with a deadline."""

from pathlib import Path

from dps_ray.deadline import within
from dps_ray.errors import ModelError

SECONDS = 30.0  # within which the hub must answer


def check_model(key: str, model: str) -> None:
    """Checks that a model that is not a folder is available on the hub, or in its local cache with HF_HUB_OFFLINE=1.

    Without this check, transformers would try an unreachable hub for half a minute for each file in each process, and
    wait for a silent hub without limit.

    Args:
        key: the setting or option that names the model, as written before its value, such as `model.path=`.

    Raises:
        ModelError: the model is neither a folder nor a model on the hub, or the hub does not answer.
    """
    if Path(model).is_dir():
        return
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        cached = isinstance(try_to_load_from_cache(model, "config.json"), str)
    except HFValidationError:
        raise ModelError(
            f"{key}{model}: there is no such folder, and the name of a model on the hub it cannot be"
        ) from None
    if constants.HF_HUB_OFFLINE:
        if cached:
            return
        raise ModelError(
            f"{key}{model}: there is no such folder and no copy in the hub's cache, and HF_HUB_OFFLINE forbids asking "
            "the hub; unset HF_HUB_OFFLINE, or write the path of a folder"
        )
    hub = constants.ENDPOINT
    try:
        within(SECONDS, lambda: HfApi().model_info(model, timeout=SECONDS))
    except GatedRepoError:
        raise ModelError(
            f"{key}{model}: {hub} provides this model only to users who accepted its terms; accept them there, and "
            "set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{key}{model}: there is no such folder, and no such model on {hub} (or a private one: set HF_TOKEN)"
        ) from None
    except Exception as error:  # network errors, whose types depend on the HTTP client in use
        remedy = (
            "set HF_HUB_OFFLINE=1 to use the copy in its cache"
            if cached
            else "write the path of a folder"
        )
        raise ModelError(
            f"{key}{model}: there is no such folder, and {hub} cannot be asked for it: "
            f"{str(error).strip() or type(error).__name__}; {remedy}, or set HF_ENDPOINT to a hub that can be reached"
        ) from None
