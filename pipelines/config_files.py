"""The configurations that are shipped, and finding one by name."""

from pathlib import Path

from dps_ray.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"


def config_file(name: str) -> Path:
    """A path, or the name of one of the shipped configurations.

    Raises:
        ConfigError: there is no such file.
    """
    shipped = CONFIGS / f"{name}.yaml"
    if shipped.exists() or Path(name).exists():
        return shipped if shipped.exists() else Path(name)
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    raise ConfigError(f"--config {name}: there is no such file; shipped are {names}")
