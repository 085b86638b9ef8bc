"""Settings that check themselves with the standard library, and that pydantic reads alike."""

import pickle
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from dps_ray.config.tree import settings_in
from dps_ray.errors import ConfigError
from dps_ray.plain_settings import HOME, Count, Limits, PlainSettings, Share, made, types_of


class Base(PlainSettings):
    share: Share = 0.5
    """A share,
    in two lines."""
    count: Count | None = None
    """A count."""
    fixed: ClassVar[int] = 3


class Mine(Base):
    rule: Literal["right", "wrong"] = "right"
    """A rule."""
    scale: Annotated[float, Limits(gt=0.0, lt=10.0)]
    count: Count | None = 2
    on: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.on and self.rule == "wrong":
            raise ValueError("on=True goes with rule=right")


def test_values_defaults_and_inherited_settings_are_held_and_cannot_be_changed():
    mine = Mine(scale=2, share=0)
    assert (mine.share, mine.count, mine.rule, mine.scale) == (0.0, 2, "right", 2.0)
    assert type(mine.scale) is type(mine.share) is float
    assert mine == Mine(scale=2.0, share=0.0) != Mine(scale=3.0)
    assert pickle.loads(pickle.dumps(mine)) == mine
    assert list(types_of(Mine)) == ["share", "count", "rule", "scale", "on"]
    with pytest.raises(AttributeError):
        mine.scale = 3.0


WRONG = [
    ({"scale": 1, "share": 1.5}, "share=1.5: it must be 1 or less"),
    ({"scale": 1, "share": float("nan")}, "share=nan: it must be 0 or more"),
    ({"scale": 1, "share": "x"}, "share='x': it must be a number"),
    ({"scale": 1, "count": 0}, "count=0: it must be 1 or more"),
    ({"scale": 1, "count": 1.5}, "count=1.5: it must be an integer"),
    ({"scale": 1, "rule": "left"}, "rule='left': it must be 'right' or 'wrong'"),
    ({"scale": 0}, "scale=0: it must be above 0"),
    ({"scale": 10}, "scale=10: it must be below 10"),
    ({"scale": 1, "on": 7}, "on=7: it must be True or False"),
    ({"scale": 1, "on": True, "rule": "wrong"}, "on=True goes with rule=right"),
    ({"scale": 1, "skale": 1}, "skale=1: there is no such setting; there are share, count, rule"),
    ({}, "scale must be set"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_a_wrong_value_is_refused_with_what_to_write_and_pydantic_refuses_it_too(given, message):
    with pytest.raises(ConfigError) as error:
        made(Mine, given)
    assert message in str(error.value)
    with pytest.raises(ValidationError):
        TypeAdapter(Mine).validate_python(given)


def test_pydantic_reads_texts_as_values_and_gives_the_same_object():
    read = TypeAdapter(Mine).validate_python({"scale": "2.5", "count": None, "on": "yes"})
    assert read == Mine(scale=2.5, count=None, on=True)


class WithPath(PlainSettings):
    file: Annotated[str | None, HOME] = None


@pytest.mark.parametrize(
    "read", [lambda given: made(WithPath, given), TypeAdapter(WithPath).validate_python]
)
def test_a_tilde_in_a_path_is_the_home_folder_whoever_reads_the_settings(read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read({}).file is None
    assert read({"file": "~/run"}).file == read({"file": Path("~/run")}).file == "/home/me/run"
    assert pickle.loads(pickle.dumps(read({"file": "./~a"}))).file == "./~a"
    with pytest.raises(ValueError, match="is empty; write a path"):
        read({"file": ""})


def test_what_is_said_of_settings_is_found_in_their_source():
    said = {name: field.description for name, field in settings_in(Mine).items()}
    assert said == {
        "share": "A share,\nin two lines.",
        "count": "A count.",
        "rule": "A rule.",
        "scale": None,
        "on": None,
    }
    assert settings_in(Mine)["scale"].is_required()
    assert settings_in(Mine)["count"].default == 2
