"""`pip install dps_ray`: a wheel with `dps_ray` alone, which needs NumPy alone, for every Python at hand."""

import ast
import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
UV = [sys.executable, "-m", "uv"]
LIGHT = {"dps_ray", "numpy"}


def done(*command, folder):
    """What a command prints; fails with all that it said."""
    ran = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def example(page):
    """The program that shows `PromptSampler` on a page."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
    )
    (block,) = (block for block in blocks if "PromptSampler(" in block)
    return block


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files that packages are made of, elsewhere: a build writes beside them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("dps_ray", "actors", "cluster", "pipelines", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "PACKAGE.md", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def built(checkout):
    """The folder of the source archive and the wheel."""
    done(sys.executable, "-m", "build", "--no-isolation", folder=checkout)
    return checkout / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    (file,) = built.glob("*.whl")
    return file


def installed(wheel, python, folder):
    """The Python of a new environment in which nothing but the wheel was asked for."""
    done(*UV, "venv", "--quiet", "--python", python, folder, folder=wheel.parent)
    made = folder / "bin" / "python"
    # Compiled, as pip does it.
    asked = [*UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(made), wheel]
    ran = subprocess.run(asked, capture_output=True, text=True)
    if ran.returncode and re.search(r"dns error|[Ff]ailed to fetch|timed out", ran.stderr):
        pytest.skip("no package registry to have NumPy from")
    assert ran.returncode == 0, ran.stderr
    return made


@pytest.fixture(scope="module")
def light(wheel, tmp_path_factory):
    return installed(wheel, sys.executable, tmp_path_factory.mktemp("environment") / "light")


def pythons():
    """Every Python from 3.10 to 3.14 on this machine that runs, but for this one."""
    for minor in range(10, 15):
        places = [shutil.which(f"python3.{minor}")]
        places += sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
        for place in filter(None, places):
            ran = subprocess.run([place, "-m", "venv", "--help"], capture_output=True)
            if ran.returncode == 0 and minor != sys.version_info.minor:
                yield pytest.param(str(place), id=f"3.{minor}")
                break


def test_the_archives_pass_the_checks_of_the_index(built):
    said = done(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), folder=built)
    assert said.count("PASSED") == 2


def test_the_wheel_has_dps_ray_alone_and_asks_for_numpy_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(metadata))
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"dps_ray", metadata.partition("/")[0]}
    needed = told.get_all("Requires-Dist")
    assert [each for each in needed if "extra ==" not in each] == ["numpy"]
    extras = {"methods", "train", "cpu", "gpu", "trl", "verl", "slime", "prime-rl"}
    assert extras <= set(told.get_all("Provides-Extra"))
    assert {"dps_ray/py.typed", "dps_ray/configs/arithmetic.yaml"} <= set(names)


def test_the_page_of_the_index_has_no_link_that_leads_nowhere_there():
    page = (ROOT / "PACKAGE.md").read_text()
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)", page))


def test_the_page_of_the_index_and_the_readme_show_the_same_program():
    assert example("PACKAGE.md") == example("README.md")
    assert len(example("README.md").splitlines()) <= 20


def test_an_empty_environment_gets_numpy_and_nothing_else(light):
    (packages,) = light.parents[1].glob("lib/python*/site-packages")
    found = {path.name.partition("-")[0].partition(".")[0] for path in packages.iterdir()}
    assert {name for name in found if not name.startswith("_")} == LIGHT


def test_the_program_of_the_readme_runs_there(light, tmp_path):
    said = done(light, "-W", "error", "-c", example("README.md"), folder=tmp_path)
    mixed = [float(share) for share in re.findall(r"mixed ([\d.]+)", said)]
    uniform = [float(share) for share in re.findall(r"uniform ([\d.]+)", said)]
    assert len(mixed) == 4
    assert min(mixed) > 2 * max(uniform)


def test_importing_it_takes_less_than_three_tenths_of_a_second(light, tmp_path):
    program = "import time; from dps_ray import PromptSampler; print(time.process_time())"
    assert min(float(done(light, "-c", program, folder=tmp_path)) for _ in range(5)) < 0.3


def test_importing_it_loads_neither_pydantic_nor_scipy_where_they_are(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules)\n"
        "from dps_ray import PromptSampler\n"
        "PromptSampler(range(9), method='dps').take(3)\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = set(done(sys.executable, "-c", program, folder=tmp_path).split())
    assert loaded - set(sys.stdlib_module_names) == LIGHT


def test_what_the_light_part_lacks_is_said_with_what_to_install(light, tmp_path):
    program = (
        "from dps_ray import PromptSampler\n"
        "from dps_ray.errors import ConfigError\n"
        "try:\n"
        "    PromptSampler(range(9), method='dps', observation='rewards', states='variation')\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    from dps_ray import Config\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    first, second = done(light, "-c", program, folder=tmp_path).splitlines()
    assert "pip install 'dps_ray[methods]'" in first
    assert "pip install 'dps_ray[train]'" in second


@pytest.mark.parametrize("python", [*pythons()])
def test_it_works_with_another_python(python, wheel, tmp_path):
    made = installed(wheel, python, tmp_path / "other")
    program = (
        "import io, numpy as np\n"
        "from dps_ray import PromptSampler\n"
        "from dps_ray.selection.methods import BUILT_IN\n"
        "for method in BUILT_IN.keys() - {'offline_filter'}:\n"
        "    samplers = [PromptSampler(range(99), method=method) for _ in range(2)]\n"
        "    keys = samplers[0].take(9)\n"
        "    samplers[0].report(keys, [[0, key % 2] for key in keys])\n"
        "    file = io.BytesIO()\n"
        "    np.savez(file, **samplers[0].state_dict())\n"
        "    file.seek(0)\n"
        "    samplers[1].load_state_dict(np.load(file))\n"
        "    assert samplers[0].take(30) == samplers[1].take(30)\n"
        "    print(method)\n"
    )
    assert len(done(made, "-W", "error", "-c", program, folder=tmp_path).split()) == 9


def test_an_editable_install_finds_all_folders_of_the_checkout(checkout, tmp_path):
    done(*UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "own", folder=tmp_path)
    python = tmp_path / "own" / "bin" / "python"
    # Setuptools comes from the environment of the tests, as `--no-build-isolation` would want it in the new one.
    backend = (
        "import setuptools.build_meta as backend, sys; print(backend.build_editable(sys.argv[1]))"
    )
    name = done(sys.executable, "-c", backend, tmp_path, folder=checkout).split()[-1]
    done(
        *UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--no-deps",
        tmp_path / name,
        folder=tmp_path,
    )
    program = (
        "import importlib.util as u, sys; print(*[u.find_spec(n).origin for n in sys.argv[1:]])"
    )
    folders = ("dps_ray", "actors", "pipelines", "benchmarks")
    found = done(python, "-c", program, *folders, folder=tmp_path).split()
    assert found == [str(checkout / folder / "__init__.py") for folder in folders]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "dps_ray").rglob("*.py")), ids=lambda path: path.name
)
def test_a_file_of_the_package_is_valid_python_of_the_oldest_version(path):
    ast.parse(path.read_text(), feature_version=(3, 10))
