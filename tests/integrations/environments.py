"""Environments for the tests of `dps_ray.integrations`: a framework beside the packages of this one, which stay as they are.

    python tests/integrations/environments.py            all: makes what is missing, and runs the tests
    python tests/integrations/environments.py verl-0.7.1 one

An environment is a virtual one that finds torch, Ray and transformers where this Python does, and has the framework without
its dependencies, as no two frameworks want the same versions of these. Environments lie in build/environments.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import urllib.request
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "environments"


class Source(NamedTuple):
    """A commit of a repository that is in no package index, its folders that are Python packages, and patches to apply."""

    repository: str
    commit: str
    folders: list[str]
    patches: tuple[str, ...] = ()

    @property
    def archive(self) -> str:
        return f"https://github.com/{self.repository}/archive/{self.commit}.tar.gz"


class Environment(NamedTuple):
    """Packages in pip's words, installed without dependencies, the tests to run, and environment variables for them."""

    packages: list[str]
    tests: list[str]
    source: Source | None = None
    variables: Mapping[str, str] = {}


_OMEGACONF = ["omegaconf==2.*", "antlr4-python3-runtime==4.9.3"]
_VERL = [
    *("tensordict", "torchdata", "codetiming", "pylatexenc", "orjson", "pyvers", "wandb"),
    "hydra-core==1.3.*",
    *_OMEGACONF,
]
ENVIRONMENTS = {
    "trl-1.16.0": Environment(["trl==1.16.0"], ["test_trl.py"]),
    # Its loss is a Triton kernel, which a CPU can only interpret.
    "trl-1.15.0": Environment(
        ["trl==1.15.0", "triton==3.9.0"], ["test_trl.py"], variables={"TRITON_INTERPRET": "1"}
    ),
    "trl-1.14.2": Environment(["trl==1.14.2"], ["test_trl.py"]),
    "verl-0.9.1": Environment(
        ["verl==0.9.1", "TransferQueue==0.1.11", *_VERL], ["test_verl_v1.py", "test_verl_v0.py"]
    ),
    "verl-0.9.0": Environment(
        ["verl==0.9.0", "TransferQueue==0.1.11", *_VERL], ["test_verl_v1.py", "test_verl_v0.py"]
    ),
    "verl-0.8.0": Environment(["verl==0.8.0", *_VERL], ["test_verl_v0.py"]),
    "verl-0.7.1": Environment(["verl==0.7.1", *_VERL], ["test_verl_v0.py"]),
    "slime-0.3.1": Environment(
        ["pylatexenc"],
        ["test_slime.py"],
        Source("THUDM/slime", "624b824a898ab0ec1fcb4d373004c7f3852bf515", ["slime"]),
    ),
    "prime-rl-0.8.0": Environment(
        [
            *("verifiers==0.3.1", "prime-pydantic-config", "renderers", "tenacity"),
            *("prime-sandboxes==0.2.39", "connectrpc==0.11.1", "pyqwest", "aiofiles", "wandb"),
            *("protobuf-py==0.1.1", "protobuf-py-ext==0.1.1"),
        ],
        ["test_prime_rl.py"],
        Source(
            "PrimeIntellect-ai/prime-rl",
            "559b44772e471d1538537b8805cc77f3824a5e64",
            ["packages/prime-rl-configs/src/prime_rl", "src/prime_rl"],
            ("examples/prime_rl/custom_sampler.patch",),
        ),
    ),
    "skyrl-0.3.0": Environment(
        ["loguru", "jaxtyping", "cloudpathlib", "torchdata", "orjson", "zstandard", *_OMEGACONF],
        ["test_skyrl.py"],
        Source(
            "NovaSky-AI/SkyRL",
            "a9564572eb8e91076be43c1bd5e4615e3de17265",
            ["skyrl", "skyrl-gym/skyrl_gym"],
            ("tests/integrations/skyrl_on_python_3_11.patch",),
        ),
    ),
}


def made(name: str) -> Path:
    """Returns the Python of an environment, which is made if it is not there."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    packages_of(ENVIRONMENTS[name].source, packages)
    install = ["-m", "uv", "pip", "install", "--quiet", "--python", str(python), "--no-deps"]
    if ENVIRONMENTS[name].packages:
        subprocess.run([sys.executable, *install, *ENVIRONMENTS[name].packages], check=True)
    # Wheels of verl and TransferQueue have a top-level package `tests`, which would hide ours.
    shutil.rmtree(packages / "tests", ignore_errors=True)
    (folder / "complete").touch()
    return python


def packages_of(source: Source | None, folder: Path) -> None:
    """Copies the packages of a source there. Its archive is kept, and not loaded again."""
    if source is None:
        return
    archive = FOLDER / "sources" / f"{source.repository.replace('/', '-')}-{source.commit}.tar.gz"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        try:
            part, _ = urllib.request.urlretrieve(source.archive)
        except OSError as error:
            sys.exit(f"{source.archive} cannot be loaded ({error}); put it at {archive}")
        shutil.move(part, archive)
    with tempfile.TemporaryDirectory() as there, tarfile.open(archive) as files:
        files.extractall(there, filter="data")
        (root,) = Path(there).iterdir()
        for patch in source.patches:
            subprocess.run(["patch", "--strip=1", f"--input={ROOT / patch}"], cwd=root, check=True)
        for package in source.folders:
            shutil.copytree(root / package, folder / Path(package).name, dirs_exist_ok=True)


def main(names: list[str], *options: str) -> int:
    """Runs the tests of some environments, one after another; returns 1 if any fails."""
    unknown = [name for name in names if name not in ENVIRONMENTS]
    if unknown:
        print(f"no environment {unknown[0]}; there are {', '.join(ENVIRONMENTS)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or ENVIRONMENTS:
        tests = [str(Path("tests/integrations") / file) for file in ENVIRONMENTS[name].tests]
        print(f"--- {name}", flush=True)
        command = [str(made(name)), "-m", "pytest", "-q", *tests, *options]
        variables = os.environ | ENVIRONMENTS[name].variables
        if subprocess.run(command, cwd=ROOT, env=variables).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return int(bool(failed))


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    sys.exit(main(chosen, *(argument for argument in sys.argv[1:] if argument not in chosen)))
