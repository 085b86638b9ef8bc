"""Models that are named and not in a folder: looked up on the Hugging Face hub once, with a deadline."""

from pathlib import Path

from dps_ray.deadline import within
from dps_ray.errors import ModelError

SECONDS = 30.0  # in which the hub has to answer


def check_model(key: str, model: str) -> None:
    """That a model which is no folder can be had from the hub, or from its local cache with HF_HUB_OFFLINE=1.

    transformers would ask a hub that cannot be reached for half a minute for each file, in each process, and wait for
    one that is silent without an end.

    Args:
        key: the setting or option that names it, as it is written before its value.

    Raises:
        ModelError: it is neither a folder nor a model on the hub, or the hub does not answer.
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
            f"{key}{model}: there is no such folder and no copy in the hub's cache, and HF_HUB_OFFLINE forbids to ask "
            "the hub; unset that, or write the path of a folder"
        )
    hub = constants.ENDPOINT
    try:
        within(SECONDS, lambda: HfApi().model_info(model, timeout=SECONDS))
    except GatedRepoError:
        raise ModelError(
            f"{key}{model}: {hub} gives this model only to those who accepted its terms; do that there, and set "
            "HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{key}{model}: there is no such folder, and no such model on {hub} (or a private one: set HF_TOKEN)"
        ) from None
    except Exception as error:  # of the network; its types are those of the client in use
        remedy = (
            "set HF_HUB_OFFLINE=1 to use the copy in its cache"
            if cached
            else "write the path of a folder"
        )
        raise ModelError(
            f"{key}{model}: there is no such folder, and {hub} cannot be asked for it: "
            f"{str(error).strip() or type(error).__name__}; {remedy}, or set HF_ENDPOINT to a hub that can be reached"
        ) from None
