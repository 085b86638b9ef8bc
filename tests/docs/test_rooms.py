"""The rooms of docs/design.md and the tour of docs/tour.md, held against the code."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the bottom up. A room imports from itself and from rooms before it.
ROOMS = [
    "dps_ray",
    "dps_ray/prompts",
    "dps_ray/objective",
    "dps_ray/beliefs",
    "dps_ray/rewards",
    "dps_ray/durable",
    "dps_ray/tasks",
    "dps_ray/environments",
    "dps_ray/selection",
    "dps_ray/sampler",
    "dps_ray/integrations",
    "dps_ray/config",
    "actors",
    "cluster",
    "pipelines/command",
    "pipelines/monitoring",
    "pipelines/data",
    "pipelines/rollout",
    "pipelines/simulation",
    "pipelines/training",
    "pipelines/comparison",
    "pipelines/evaluation",
    "pipelines",
]
FACADES = {
    "dps_ray/__init__.py",
    "pipelines/__init__.py",
}  # offer what lies in rooms under short names
FILES = [
    path.relative_to(ROOT)
    for folder in ("dps_ray", "actors", "cluster", "pipelines")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
MODULES = {
    str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__"): path for path in FILES
}


def imports(path: Path) -> set[Path]:
    """Files of the product that a file imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [module if module in MODULES else node.module for module in modules]
        else:
            continue
        found |= {MODULES[name] for name in names if name in MODULES}
    return found - {path}


def room(path: Path) -> str:
    parts = path.parts[:-1]
    return "/".join(parts[:2] if parts[0] in ("dps_ray", "pipelines") else parts[:1])


IMPORTS = {path: imports(path) for path in FILES if str(path) not in FACADES}


def test_no_two_files_import_each_other_whatever_lies_between():
    list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError with the circle


@pytest.mark.parametrize("path", IMPORTS, ids=str)
def test_a_file_imports_from_its_own_room_and_those_below(path):
    level = ROOMS.index(room(path))
    above = {str(other) for other in IMPORTS[path] if ROOMS.index(room(other)) > level}
    assert above <= FACADES


def test_no_file_is_longer_than_350_lines():
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in FILES}
    assert {path: length for path, length in lengths.items() if length > 350} == {}


def test_what_the_tour_links_to_is_there():
    links = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)", (ROOT / "docs/tour.md").read_text())
    assert len(links) > 30
    missing = [
        (name, file)
        for name, file in links
        if not re.search(rf"\b(def|class) {name.rpartition('.')[2]}\b", (ROOT / file).read_text())
    ]
    assert missing == []
