import argparse
from pathlib import Path

import pytest

from dps_ray.paths import expanded, expanded_of_named, path_option


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~", "/home/me"),
        ("~/r.py:f", "/home/me/r.py:f"),
        ("~root/a", str(Path("~root/a").expanduser())),
        ("a/~/b", "a/~/b"),
        ("./~b", "./~b"),
        ("builtin:arithmetic", "builtin:arithmetic"),
    ],
)
def test_a_leading_tilde_is_a_home_folder(written, meant):
    assert expanded(written) == meant
    assert path_option(written) == Path(meant)


def test_the_path_after_a_name_is_meant():
    assert expanded_of_named("before=~/a") == "before=/home/me/a"
    assert expanded_of_named("~/a=b") == "/home/me/a=b"
    assert expanded_of_named("a/b=~/c") == "a/b=~/c"


@pytest.mark.parametrize("written", ["", " ", "~nobody-of-this-name/a"])
def test_what_is_no_path_is_refused(written):
    with pytest.raises(
        ValueError, match=r"write a path|no home folder ~nobody-of-this-name; a path"
    ):
        expanded(written)
    with pytest.raises(argparse.ArgumentTypeError):
        path_option(written)
