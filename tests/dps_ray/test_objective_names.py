"""The names of objectives: which settings they choose, what wins over them, and what cannot be."""

import re
from pathlib import Path

import pytest
import yaml

from dps_ray.config import Config, ObjectiveSettings, settings
from dps_ray.errors import ConfigError
from dps_ray.objective.published import PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_name_chooses_the_published_settings_and_a_dump_of_them_is_read_back(
    name, tmp_path: Path
):
    config = settings.load(None, [f"objective.name={name}"])
    found = config.objective.model_dump()
    defaults = ObjectiveSettings().model_dump()
    assert found == {**defaults, "name": name, **PUBLISHED[name]}
    (tmp_path / "config.yaml").write_text(settings.dump(config))
    assert settings.load(tmp_path / "config.yaml") == config
    assert settings.loads(settings.dump(config)) == config


def test_the_documentation_lists_what_each_name_sets():
    text = Path("docs/objectives.md").read_text()
    section = text.partition("## As settings")[2].partition("##")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", section, re.MULTILINE)
    listed = {
        name: {key: yaml.safe_load(value) for key, value in re.findall(r"`(\w+)=([^`]+)`", cell)}
        for name, cell in rows
    }
    assert listed == {name: dict(of_name) for name, of_name in PUBLISHED.items()}
    names = re.findall(
        r"^\| `(\w+)` \|", text.partition("## The names")[2].partition("##")[0], re.M
    )
    assert names == list(PUBLISHED)


def test_without_a_name_the_settings_are_what_they_were():
    found = ObjectiveSettings()
    assert (found.clip_low, found.clip_high, found.dual_clip) == (0.2, 0.28, 10.0)
    assert (found.baseline, found.scale, found.aggregation) == ("group", "group", "token-mean")
    assert (found.loss, found.importance_cap, found.kl_coef) == ("token_ratio", 2.0, 0.0)
    assert ObjectiveSettings(name="grpo") == found


def test_a_setting_that_is_given_wins_wherever_it_is_given(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("objective: {name: gspo, clip_high: 0.1}\n")
    config = settings.load(file, ["objective.aggregation=token-mean"])
    objective = config.objective
    assert (objective.clip_low, objective.clip_high) == (3e-4, 0.1)
    assert (objective.loss, objective.aggregation) == ("sequence_ratio", "token-mean")
    # A file of settings that are the defaults of another objective keeps them too.
    file.write_text("objective: {clip_high: 0.28}\n")
    assert settings.load(file, ["objective.name=gspo"]).objective.clip_high == 0.28
    assert Config(objective={"name": "cispo", "clip_high": 0.2}).objective.clip_high == 0.2


@pytest.mark.parametrize("divided", [True, False])
def test_the_earlier_name_of_scale_is_read(divided, tmp_path: Path):
    scale = "group" if divided else "none"
    assert Config(objective={"norm_by_std": divided}).objective.scale == scale
    text = str(divided).lower()
    assert settings.load(None, [f"objective.norm_by_std={text}"]).objective.scale == scale
    file = tmp_path / "run.yaml"
    file.write_text(f"objective: {{norm_by_std: {text}}}\n")
    assert settings.load(file).objective.scale == scale
    assert settings.loads(file.read_text()).objective.scale == scale
    assert settings.load(file, ["objective.scale=batch"]).objective.scale == "batch"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("objective.name=grop", "objective.name='grop': input should be 'grpo', 'dr_grpo'"),
        (
            "objective.baseline=batch",
            "objective.scale=group: groups all alike train, whose deviation is 0; set "
            "objective.scale=batch or objective.scale=none",
        ),
        (
            "objective.baseline=leave_one_out",
            "set objective.baseline=group or objective.scale=none",
        ),
        ("objective.name=ppo objective.scale=group", "there are advantages for each token"),
        ("objective.name=ppo objective.baseline=group", "ppo and no other objective has a critic"),
        ("objective.baseline=critic", "set objective.name=ppo and objective.baseline=critic"),
        ("objective.name=cispo objective.dual_clip=3", "set objective.dual_clip=null"),
        (
            "objective.scale=none objective.norm_by_std=true",
            "leave objective.norm_by_std out",
        ),
        (
            "objective.overlong_buffer=1025",
            "rollout.max_response_length=1024: the buffer is the last part",
        ),
        ("objective.clip_low=1.1", "objective.clip_low=1.1: input should be less than or equal"),
        (
            "objective.name=rloo objective.baseline=belief states.rule=variation",
            "set states.rule=right or objective.baseline=group",
        ),
    ],
)
def test_what_makes_no_sense_is_an_error_that_says_what_to_write(overrides, message):
    with pytest.raises(ConfigError) as error:
        settings.load(None, overrides.split())
    assert message in str(error.value)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "ppo"])
def test_the_belief_is_a_baseline_for_every_objective_without_a_critic(name):
    config = Config(objective={"name": name, "baseline": "belief"})
    assert config.objective.scale == PUBLISHED[name].get("scale", "group")
