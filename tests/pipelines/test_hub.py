"""A model that is no folder is looked up once, and a hub that does not answer is named in time."""

import pytest
from huggingface_hub import constants

from dps_ray.errors import ModelError
from pipelines.data import hub
from pipelines.data.hub import check_model
from tests.network import closed_port, silent_port


@pytest.fixture
def at(monkeypatch):
    """The hub is at this port of this machine, and has half a second."""

    def move(port: int) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "SECONDS", 0.5)

    return move


@pytest.mark.parametrize("port", [silent_port, closed_port])
def test_a_hub_that_does_not_answer_is_named_with_what_to_do(at, port):
    with port() as number:
        at(number)
        with pytest.raises(ModelError, match=rf"model.path=some/model: .*127.0.0.1:{number}.*HF_"):
            check_model("model.path=", "some/model")


def test_a_copy_in_the_cache_is_pointed_out(at, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--some--model" / "snapshots" / "0" / "config.json"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_text("{}")
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("0")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with closed_port() as number:
        at(number)
        with pytest.raises(ModelError, match="set HF_HUB_OFFLINE=1 to use the copy"):
            check_model("model.path=", "some/model")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        check_model("model.path=", "some/model")
        with pytest.raises(ModelError, match="no copy in the hub's cache, and HF_HUB_OFFLINE"):
            check_model("model.path=", "some/other")


@pytest.mark.parametrize("name", ["./models/mine", "runs/a/b", "my model"])
def test_what_cannot_be_a_name_is_said_without_asking(name):
    with pytest.raises(ModelError, match="no such folder, and the name of a model on the hub it"):
        check_model("--embed ", name)


def test_a_folder_is_not_looked_up(at, tmp_path):
    with closed_port() as number:
        at(number)
        check_model("model.path=", str(tmp_path))
