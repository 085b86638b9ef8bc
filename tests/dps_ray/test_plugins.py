"""Selectors of the user's own, by the name of a file or module and a class."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dps_ray.config import Config, settings
from dps_ray.errors import ConfigError
from dps_ray.plugins import load_object, spec_of
from dps_ray.selection import methods
from dps_ray.selection.coverage import CoverageLimits
from dps_ray.selection.methods import MoPPS
from dps_ray.selection.selector import Context

OWN = """
from typing import Annotated
from pydantic import Field
from dps_ray.selection.methods.scored import ScoredSelector
from dps_ray.selection.settings import SelectorSettings

class LargestId(ScoredSelector):
    class Settings(SelectorSettings):
        sign: Annotated[float, Field(gt=0)] = 1.0
        \"\"\"The scores are multiplied by this.\"\"\"

    @classmethod
    def make(cls, ids, settings, context):
        selector = cls(ids, context.seed)
        selector.sign = settings.sign
        return selector

    def scores(self):
        return self.sign * self._index.ids(np.arange(len(self))).astype(float)

    def learn(self, seen):
        pass
""".replace("from typing", "import numpy as np\nfrom typing", 1)


@pytest.fixture
def file(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def load(*overrides: str) -> Config:
    return settings.load(None, overrides)


def test_a_selector_in_a_file_is_a_method_with_settings_of_its_own(file: Path, monkeypatch):
    monkeypatch.chdir(file.parent)
    config = load("method=mine.py:LargestId", "selector.sign=2e0", "selector.rest=3")
    assert config.method == f"{file}:LargestId"  # from anywhere
    ids = np.arange(50)
    selector = methods.make(config.method, ids, config.selector, Context(0, 50, 8))
    assert isinstance(selector, CoverageLimits)
    assert selector.select(3).ids.tolist() == [49, 48, 47]
    assert selector.inner.sign == 2.0


def test_its_settings_are_checked_as_those_of_other_methods(file: Path):
    own = f"method={file}:LargestId"
    for override, message in (
        ("selector.sign=0", "selector.sign=0: input should be greater than 0"),
        ("selector.sing=1", "did you mean selector.sign?"),
        ("selector.decay=1", f"method={file}:LargestId has rest, max_uses, fresh_share, sign"),
    ):
        with pytest.raises(ConfigError) as error:
            load(own, override)
        assert message in str(error.value)


def test_its_configuration_is_written_and_read_back(file: Path):
    config = load(f"method={file}:LargestId", "selector.sign=3")
    assert settings.loads(settings.dump(config)) == config
    assert dict(settings.flatten(config))["selector.sign"] == 3.0


def test_another_process_gets_its_configuration_that_has_not_imported_the_file(
    file: Path, tmp_path: Path
):
    config = load(f"method={file}:LargestId", "selector.sign=3")
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(config))
    code = (
        "import pickle, sys; from pathlib import Path\n"
        "config = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "print(config.method, config.selector.sign)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.pickle")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert (done.stdout.split(), done.stderr) == ([f"{file}:LargestId", "3.0"], "")


def test_a_class_or_its_settings_are_given_from_a_script_and_named_by_its_file(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        OWN + "from dps_ray import Config\n"
        "from dps_ray.selection import methods\n"
        "if __name__ == '__main__':\n"
        "    config = Config(selector=LargestId.Settings(sign=2))\n"
        "    assert config == Config(method=LargestId, selector={'sign': 2})\n"
        "    assert methods.load(config.method) is LargestId\n"
        "    print(config.method)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert (done.stdout.strip(), done.stderr) == (f"{script}:LargestId", "")


def test_a_class_that_was_imported_is_the_class_that_its_name_loads(file: Path, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    assert spec_of(mine.LargestId) == f"{file}:LargestId"
    assert methods.load(f"{file}:LargestId") is mine.LargestId
    assert Config(selector=mine.LargestId.Settings()).method == f"{file}:LargestId"
    monkeypatch.delitem(sys.modules, "mine")


def test_a_class_of_a_package_is_named_by_its_module():
    assert spec_of(MoPPS) == "dps_ray.selection.methods.mopps:MoPPS"
    assert load_object(spec_of(MoPPS.Settings), "selector", "class") is MoPPS.Settings
    assert methods.name_of(MoPPS) == "mopps"


def test_a_file_that_has_changed_is_loaded_again(file: Path):
    before = methods.load(f"{file}:LargestId")
    assert methods.load(f"{file}:LargestId") is before
    file.write_text(OWN + "\n# changed\n")
    assert methods.load(f"{file}:LargestId") is not before


def test_what_other_processes_could_not_load_is_refused_with_what_to_do():
    class Local(MoPPS):
        pass

    with pytest.raises(ConfigError, match="define it with def or class at the top level"):
        Config(method=Local)
    notebook = type("Own", (MoPPS,), {"__module__": "__main__", "__qualname__": "Own"})
    main = sys.modules["__main__"]
    kept = main.__dict__.pop("__file__", None)  # as of a notebook
    try:
        with pytest.raises(
            ConfigError, match=r"notebook or an interactive session.*put it into a file"
        ):
            Config(method=notebook)
    finally:
        if kept is not None:
            main.__file__ = kept


@pytest.mark.parametrize(
    ("spec", "content", "named"),
    [
        ("mine.py:Nothing", OWN, "has no class 'Nothing'; it has: .*LargestId"),
        ("none.py:LargestId", OWN, "no selector file .*none.py; .* has: mine.py"),
        ("mine.py:LargestId", "class LargestId(:", "cannot load the selector file .*SyntaxError"),
        ("no_such_package.own:Own", OWN, "cannot import the selector module 'no_such_package.own'"),
        ("mine.py:f", "def f(): pass", "f is no class; name a class of selectors"),
        (
            "mine.py:Own",
            "class Own:\n    def select(self): pass",
            "Own has no make, __len__, observe, times_sampled, metrics, snapshot, load_state; a selector has",
        ),
        (
            "mine.py:Own",
            "from dps_ray import UniformSelector\nclass Own(UniformSelector):\n    Settings = None",
            "Own has no class Settings within it; declare one that derives from",
        ),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_with_the_reason(
    file: Path, monkeypatch, spec: str, content: str, named: str
):
    monkeypatch.chdir(file.parent)
    file.write_text(content)
    with pytest.raises(ConfigError, match=named):
        load(f"method={spec}")
