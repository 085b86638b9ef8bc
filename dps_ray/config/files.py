"""The configurations that are shipped, and finding one by name."""

from collections.abc import Sequence
from pathlib import Path

from dps_ray.errors import ConfigError
from dps_ray.paths import expanded

CONFIGS = Path(__file__).parents[1] / "configs"


def config_file(name: str, said: str = "--config ") -> Path:
    """Returns the file of a configuration that is named by its path, or as one of those that are shipped.

    Args:
        said: what stands before the name where a user wrote it, for errors.

    Raises:
        ConfigError: there is no such file.
    """
    shipped = CONFIGS / f"{name}.yaml"
    if shipped.exists():
        return shipped
    try:
        file = Path(expanded(name))
    except ValueError as error:
        raise ConfigError(f"{said}{name!r}: {error}") from None
    if file.exists():
        return file
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    raise ConfigError(f"{said}{name}: there is no such file; shipped are {names}")


def file_of_run(config: str | None, overrides: Sequence[str]) -> Path | None:
    """The file that a run's settings start from: the one asked for, else that of the built-in task; none where
    `overrides` name data of their own, which the lengths and rates of that task would not suit.

    config: as for `config_file`.

    Raises:
        ConfigError: there is no such file.
    """
    if config is None and any(one.partition("=")[0].strip() == "data.train" for one in overrides):
        return None
    return config_file(config or "arithmetic")
