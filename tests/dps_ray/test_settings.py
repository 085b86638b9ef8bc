import re
import shlex
from pathlib import Path

import pytest

from dps_ray import settings
from dps_ray.config import Config
from dps_ray.errors import ConfigError


def load(*overrides: str) -> Config:
    return settings.load(None, overrides)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("learner: {lr: 1.0e-5, epochs: 3}\nmethod: uniform\n")
    config = settings.load(file, ["learner.lr=3e-5"])
    assert (config.learner.lr, config.learner.epochs, config.method) == (3e-5, 3, "uniform")
    assert config.learner.minibatches == Config().learner.minibatches


def test_what_is_dumped_loads_to_the_same_configuration(tmp_path: Path):
    config = load("loop.steps=7", "data.train=[a.parquet, b.parquet]", "learner.betas=[0.8, 0.9]")
    (tmp_path / "config.yaml").write_text(settings.dump(config))
    assert settings.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "learner.lrr=3e-5",
            "learner.lrr='3e-5': there is no such setting; did you mean learner.lr?",
        ),
        ("lerner.lr=3", "did you mean learner.lr?"),
        ("batch_size=3", "did you mean loop.batch_size?"),
        ("learner.momentum=1", "learner has lr, warmup_steps"),
        ("nonsense.at.all=1", "--help lists them all"),
        ("loop.steps=many", "loop.steps='many': input should be a valid integer"),
        ("loop.steps=0", "loop.steps=0: input should be greater than or equal to 1"),
        ("selector.decay=1.5", "selector.decay=1.5: input should be less than or equal to 1"),
        ("method=dsp", "method='dsp': input should be 'dps', 'dps_pooled', 'uniform'"),
        ("loop.steps", "write key=value"),
        ("method.x=1", "method"),
        ("learner.lr=[1", "not valid YAML"),
        ("learner.max_tokens_per_micro_batch=100", "set it to 2048 or more"),
        ("resources.learner.gpus_per_rank=1", "both run on GPUs or both on the CPU"),
        ("states.low=1", "states.low=1.0 and states.high=1.0: low must be the smaller"),
        ("states.high=.inf", "and both finite"),
        (
            "selector.observation=rewards states.rule=thresholds",
            "states.rule=thresholds; set it to variation",
        ),
        (
            "method=mopps selector.observation=counts",
            "selector.observation=counts is for method=dps and dps_pooled; method=mopps",
        ),
        (
            "method=dps_pooled selector.observation=rewards states.rule=variation",
            "selector.observation=rewards is for method=dps; method=dps_pooled",
        ),
        (
            "selector.observation=counts selector.prior=local",
            "selector.prior=local is for selector.observation=states; leave it at uniform",
        ),
        (
            "selector.observation=counts selector.candidates=0.5",
            "selector.candidates=0.5 is for selector.observation=states; leave it at null",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_write_instead(override: str, message: str):
    with pytest.raises(ConfigError) as error:
        load(*override.split())
    assert message in str(error.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ messages[0]['content'] }}\n\"é\": done",
        "{{ m",
    ],
)
def test_what_is_said_of_a_text_that_is_no_yaml_can_be_pasted_into_a_shell(template: str):
    with pytest.raises(ConfigError, match="Jinja chat template, or a file with one") as error:
        load(f"model.chat_template={template}")
    (advice,) = re.findall(r"shell: ('.*')", str(error.value))
    (override,) = shlex.split(advice)
    assert load(override).model.chat_template == template


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(ConfigError) as error:
        load("loop.steps=0", "selector.decay=2", "foo=1")
    assert all(key in str(error.value) for key in ("loop.steps", "selector.decay", "foo"))


def test_an_unreadable_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        settings.load(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="key: value"):
        settings.load(tmp_path / "list.yaml")


def test_every_setting_is_documented():
    assert [key for key, _, _, text in settings.describe() if not text] == []


@pytest.mark.parametrize(
    "file", sorted(Path("pipelines/configs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_the_shipped_configurations_are_valid(file: Path):
    settings.load(file)
