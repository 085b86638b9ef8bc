"""Code of the user's own, by name: `package.module:Name` or `path/to/file.py:Name`.

A name is what a configuration holds, and what actors load the code by. So the code has to be in a file.
"""

import importlib
import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from dps_ray.errors import ConfigError, DPSError

_loaded: dict[
    Path, tuple[bytes, ModuleType]
] = {}  # content and module of each file that was loaded


def load_object(spec: str, role: str, kind: str, error: type[DPSError] = ConfigError) -> Any:
    """Returns the object that `spec` names: `package.module:Name` or `path/to/file.py:Name`.

    A file that this process has imported already, or is running as its program, is not loaded again, unless its
    content has changed. The folder of a file is put on `sys.path`, after the standard library and before installed
    packages, so that the file can import its neighbours, when it is loaded and later.

    Args:
        role, kind: what it is, for errors, such as "reward" and "function".
        error: the type of error to raise.

    Raises:
        error: there is no such module or object, or it cannot be loaded.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise error(
            f"{spec!r} names no {role} {kind}; write 'package.module:{kind}' or 'path/to/file.py:{kind}'"
        )
    if source.endswith(".py"):
        module = _load_file(Path(source), name, role, error)
    else:
        module = _load_module(source, role, error)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        there = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise error(
            f"{source} has no {kind} {name!r}; it has: {', '.join(sorted(there)) or 'none'}"
        )
    return found


def spec_of(thing: Any) -> str:
    """Returns the name by which `load_object` finds a function or class, in another process too.

    The name holds the absolute path of the file, or the module if that belongs to a package.

    Raises:
        ConfigError: it was not defined at the top level of a file.
    """
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if module is None or name is None:
        raise ConfigError(
            f"{thing!r} has no name to load it by: give a function or a class that is defined in a file"
        )
    if "<" in name:  # <locals>, <lambda>
        raise ConfigError(
            f"{name} is defined within a function, where other processes cannot find it: define it with def or class "
            "at the top level of a file"
        )
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None and (module == "__main__" or module not in sys.modules):
        raise ConfigError(
            f"{name} is defined in a notebook or an interactive session, where other processes cannot find it: put it "
            "into a file, and import it from there"
        )
    if file is None or "." in module or _is_installed(file):
        return f"{module}:{name}"
    return f"{os.path.abspath(file)}:{name}"


def absolute(spec: str) -> str:
    """Returns the same name with the path of its file, if it has one, made absolute."""
    source, colon, name = spec.rpartition(":")
    return f"{os.path.abspath(source)}:{name}" if colon and source.endswith(".py") else spec


def _is_installed(file: str) -> bool:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return os.path.dirname(os.path.abspath(file)) in folders


def _load_module(name: str, role: str, error: type[DPSError]) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as cause:
        raise error(
            f"cannot import the {role} module {name!r}: {type(cause).__name__}: {cause}"
        ) from cause


def _load_file(path: Path, name: str, role: str, error: type[DPSError]) -> ModuleType:
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.py"))
        raise error(
            f"no {role} file {path}; {path.parent} has: {', '.join(there) or 'no .py file'}"
        )
    path = path.absolute()
    _make_importable(path.parent)
    present = _imported(path, name)
    if present is not None:
        return present
    content = path.read_bytes()
    before = _loaded.get(path)
    if before is not None and before[0] == content:
        return before[1]
    spec = importlib.util.spec_from_file_location(f"{role}_{path.stem}", path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except Exception as cause:
        del sys.modules[spec.name]
        raise error(
            f"cannot load the {role} file {path}: {type(cause).__name__}: {cause}"
        ) from cause
    _loaded[path] = content, module
    return module


def _imported(path: Path, name: str) -> ModuleType | None:
    """The module that was imported from this file, not by us, and has this name."""
    ours = {id(module) for _, module in _loaded.values()}
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")  # asks a lazy module for nothing
        here = file is not None and os.path.abspath(file) == str(path)
        if here and id(module) not in ours and hasattr(module, name.partition(".")[0]):
            return module
    return None


def _make_importable(folder: Path) -> None:
    """Put a folder on `sys.path`, where it hides no module of the standard library."""
    if str(folder) in sys.path:
        return
    library = sysconfig.get_path("stdlib")
    parts = (library, os.path.join(library, "lib-dynload"))
    places = [sys.path.index(part) for part in parts if part in sys.path]
    sys.path.insert(max(places, default=len(sys.path) - 1) + 1, str(folder))
