"""What several tests share: a policy that takes seconds to make, and arguments for a small real run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from hypothesis import settings

from pipelines import builtin, start_policy

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy of 0.1 million parameters, with untied embeddings."""
    return start_policy.tiny_policy(tmp_path_factory.mktemp("policies"))


@pytest.fixture(scope="session")
def tied_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the output head tied to the embedding."""
    return start_policy.tiny_policy(tmp_path_factory.mktemp("policies"), tied=True)


@pytest.fixture(scope="session")
def chains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Arithmetic prompts: 120 to train on, 20 to test."""
    return builtin.ensure_arithmetic(tmp_path_factory.mktemp("chains"), pool=120, test=20)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray on this machine, for the tests of one file."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
