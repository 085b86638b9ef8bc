"""What several tests share: a policy that takes seconds to make, and arguments for a small real run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from hypothesis import settings

from dps_ray.failpoints import VARIABLE, ArmedFailpoint, fail_at
from dps_ray.prompts.files import write_prompts
from dps_ray.tasks.arithmetic import LEVELS
from pipelines.data import start_policy
from pipelines.data.prepare import arithmetic
from pipelines.data.prepare.rows import in_split
from pipelines.data.prepare.tiny_vision import write_policy
from tests.warm.cluster import joined

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a Ray from this process come last. `ray.init(address="local")` turns token authentication on in
    the process and its children, and the Ray that the other tests share, which has none, cannot call them any more."""
    items.sort(key=lambda item: item.get_closest_marker("starts_ray") is not None)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy of 0.1 million parameters, with untied embeddings."""
    return start_policy.tiny_policy(tmp_path_factory.mktemp("policies"))


@pytest.fixture(scope="session")
def tied_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the output head tied to the embedding."""
    return start_policy.tiny_policy(tmp_path_factory.mktemp("policies"), tied=True)


@pytest.fixture(scope="session")
def vision_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy of Qwen2.5-VL's architecture, with untied embeddings."""
    folder = tmp_path_factory.mktemp("vision_policy")
    write_policy(folder)
    return folder


@pytest.fixture(scope="session")
def tied_vision_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the output head tied to the embedding, as the smaller published ones have it."""
    folder = tmp_path_factory.mktemp("tied_vision_policy")
    write_policy(folder, tied=True)
    return folder


@pytest.fixture(scope="session")
def chains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Arithmetic prompts of the easiest levels, where `able_policy` leaves many groups partial, so that every step of a
    run has something to learn on any processor: 120 to train on, 20 to test."""
    easy = {str(level) for level in LEVELS[:4]}
    rows = (row for row in arithmetic.rows(seed=0) if row["extra_info"]["level"] in easy)
    folder = tmp_path_factory.mktemp("chains")
    files = folder / "train.parquet", folder / "test.parquet"
    for file, split, size in zip(files, ("train", "test"), (120, 20), strict=True):
        write_prompts(file, [in_split(next(rows), split, index) for index in range(size)])
    return files


@pytest.fixture(scope="session")
def able_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny policy that solves some of the easiest chains some of the time."""
    return start_policy.tiny_policy(tmp_path_factory.mktemp("policies"), steps=150)


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, able_policy: Path, chains: tuple[Path, Path]
) -> Path:
    """The folder of a run of 3 steps with two of everything, to which nothing happened."""
    from tests.runs import TWO_OF_EVERYTHING, run

    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(folder, able_policy, chains, *TWO_OF_EVERYTHING) == 0
    return folder


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """The tests' Ray, for the tests of one file."""
    with joined():
        ray.init(log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def failpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ArmedFailpoint]:
    """`fail_at`, for processes that are started from now on."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "failpoints"))
    return fail_at
