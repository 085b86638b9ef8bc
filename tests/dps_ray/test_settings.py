import json
import pickle
import re
import shlex
from pathlib import Path

import pytest

from dps_ray.config import Config, LoraSettings, reading, settings
from dps_ray.config.evaluation import EvaluationConfig
from dps_ray.errors import ConfigError
from dps_ray.plain_settings import types_of
from dps_ray.selection import methods
from dps_ray.selection.methods import MoPPS, UniformSelector
from dps_ray.selection.pooled import PooledStore
from dps_ray.selection.settings import SelectorSettings


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
            "selector.observation is a setting of dps, dps_pooled; method=mopps has rest, max_uses",
        ),
        (
            "method=dps_pooled selector.observation=rewards states.rule=variation",
            "selector.observation='rewards': input should be 'states' or 'counts' with method=dps_pooled",
        ),
        (
            "method=uniform selector.decay=.1",
            "selector.decay is a setting of dps, dps_pooled; method=uniform has rest, max_uses, fresh_share",
        ),
        (
            "method=mopps selector.candidates=0.5",
            "selector.candidates is a setting of dps; method=mopps has rest",
        ),
        (
            "method=uniform selector.decya=1",
            "there is no such setting; selector has rest, max_uses",
        ),
        ("selector.decya=1", "there is no such setting; did you mean selector.decay?"),
        (
            "selector.observation=counts selector.prior=local",
            "selector.prior=local is for selector.observation=states; leave it at uniform",
        ),
        (
            "selector.score=gain",
            "selector.score='gain': input should be 'objective', 'partial', 'variance', 'batch' or 'surprise'",
        ),
        (
            "method=dps_pooled selector.score=variance states.rule=thresholds",
            "selector.score=variance is for right and wrong responses, and states.rule=thresholds; set "
            "selector.score=partial",
        ),
        (
            "selector.observation=rewards states.rule=variation selector.score=surprise",
            "selector.score=surprise is for right and wrong responses, and selector.observation=rewards",
        ),
        ("method=mopps selector.score=variance", "selector.score is a setting of dps, dps_pooled"),
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
def test_a_chat_template_is_taken_as_it_is_and_out_of_quotes(template: str):
    for written in (template, json.dumps(template), json.dumps(template, ensure_ascii=False)):
        assert load(f"model.chat_template={written}").model.chat_template == template


TEXTS = [
    "2e5",
    "007",
    "1.5B",
    "a #b",
    "yes",
    "1:30",
    "a: b",
    "2024-11-28",
    "it's",
    "{a",
    "- a",
    "x y ",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "key", ["folder", "model.path", "data.train", "checkpoint.storage", "resume"]
)
def test_a_text_on_the_command_line_stays_the_text_it_is(key: str, text: str):
    assert dict(settings.flatten(load(f"{key}={text}")))[key] == (
        Path(text) if key == "folder" else text
    )


@pytest.mark.parametrize("text", ["007", "2e5", "1.5B", "yes", "1:30", "2024-11-28"])
def test_a_text_in_a_file_is_the_text_whatever_yaml_would_take_it_for(tmp_path: Path, text: str):
    file = tmp_path / "run.yaml"
    file.write_text(
        f"folder: {text}\nmodel: {{path: {text}}}\ndata: {{train: [{text}, b], test: null}}\n"
    )
    config = settings.load(file)
    assert (config.folder, config.model.path) == (Path(text), text)
    assert (config.data.train, config.data.test) == ([text, "b"], None)


def test_a_group_given_as_one_override_is_read_by_the_types_of_its_settings():
    config = load("model={path: 007, chat_template: null}", "data.train=[007, '[a]']")
    assert (config.model.path, config.model.chat_template) == ("007", None)
    assert config.data.train == ["007", "[a]"]


def test_null_is_none_where_the_setting_may_be_none_and_else_a_name():
    assert load("data.test=null").data.test is None
    assert load("data.test=").data.test is None
    assert load("data.test='null'").data.test == "null"
    assert load("folder=null").folder == Path("null")


def test_numbers_are_decimal_and_switches_are_yaml():
    config = load(
        "seed=010",
        "learner.lr=1e-6",
        "loop.steps=1_000",
        "loop.filter_groups=yes",
        "eval.max_prompts=null",
    )
    assert (config.seed, config.learner.lr, config.loop.steps) == (10, 1e-6, 1000)
    assert (config.loop.filter_groups, config.eval.max_prompts) == (True, None)


def test_blanks_around_the_sign_of_equality_are_no_part_of_the_value():
    assert load("folder = a b").folder == Path("a b")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("folder=", "folder= has no value; write folder=... (The run's folder"),
        ("loop.steps=", "loop.steps= has no value"),
        ("seed=1:30", "seed='1:30': input should be a valid integer"),
        ("folder=''", "folder='': is empty; write a path"),
        (
            "folder=~nobody-of-this-name/x",
            "no home folder ~nobody-of-this-name; a path of that name is",
        ),
    ],
)
def test_a_value_that_is_none_is_refused(override: str, message: str):
    with pytest.raises(ConfigError) as error:
        load(override)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.rounds=[2,2]"], "rollout.group_size=8: write rounds that sum to 8, such as [2, 2, 4]"),
        (["rollout.rounds=[1,7]"], "begin with 2 or more, such as [2, 2, 4]"),
        (["rollout.rounds=[0,8]"], "rollout.rounds=[0, 8]: write how many responses each round has"),
        (["rollout.rounds=[]"], "rollout.rounds=[]: write how many responses each round has"),
        (["rollout.rounds=fast"], "rollout.rounds='fast': write how many responses each round has"),
        (["rollout.least_chance=1"], "rollout.least_chance=1: input should be less than 1"),
    ],
)  # fmt: skip
def test_rounds_that_make_no_full_group_are_refused_with_what_to_write(overrides, message):
    with pytest.raises(ConfigError) as error:
        load(*overrides)
    assert message in str(error.value)


def test_rounds_are_a_list_or_adaptive():
    assert load("rollout.rounds=[2,2,4]").rollout.rounds == [2, 2, 4]
    assert load("rollout.rounds=[2]", "rollout.group_size=2").rollout.rounds == [2]
    assert load("rollout.rounds=adaptive", "rollout.stop=hopeless").rollout.rounds == "adaptive"
    assert load().rollout.rounds is None


def test_what_is_said_of_a_text_that_looks_like_a_list_can_be_pasted_into_a_shell():
    with pytest.raises(ConfigError, match=r"what begins with \[ is a list") as error:
        load("data.train=[2024] math.parquet")
    (advice,) = re.findall(r"shell: ('.*') \(Parquet", str(error.value))
    (override,) = shlex.split(advice)
    assert load(override).data.train == "[2024] math.parquet"


def test_the_home_folder_is_meant_by_a_tilde_wherever_a_path_is_read(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = load(
        "folder=~/run",
        "data.train=[~/a, b]",
        "data.test=~",
        "data.reward=~/r.py:f",
        "model.path=~/m",
        "model.chat_template=~/t.jinja",
        "checkpoint.storage=~/s",
        "selector.start=~/e",
    )
    assert (config.folder, config.checkpoint.storage) == (Path("/home/me/run"), "/home/me/s")
    assert (config.data.train, config.data.test) == (["/home/me/a", "b"], "/home/me")
    assert (config.data.reward, config.model.path) == ("/home/me/r.py:f", "/home/me/m")
    assert config.model.chat_template == "/home/me/t.jinja"
    assert config.selector.start == "/home/me/e"
    assert load("model.chat_template=~{{ m }}").model.chat_template == "~{{ m }}"
    assert load("checkpoint.storage=s3://bucket/~/run").checkpoint.storage == "s3://bucket/~/run"


def test_an_evaluation_reads_paths_and_texts_alike(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = reading.load_as(
        EvaluationConfig,
        None,
        ["model.path=[before=~/a,~/b,007]", "data.test=a #b", "folder=~/2e5"],
    )
    assert config.model.path == ["before=/home/me/a", "/home/me/b", "007"]
    assert (config.data.test, config.folder) == ("a #b", Path("/home/me/2e5"))


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


@pytest.mark.parametrize(
    "overrides",
    [
        ["learner.lora={rank: 8, target_modules: [q_proj, 007]}"],
        ["learner.lora.rank=8", "learner.lora.target_modules=[q_proj, 007]"],
        [
            "learner.lora={rank: 2}",
            "learner.lora.rank=8",
            "learner.lora.target_modules=[q_proj, 007]",
        ],
    ],
)
def test_a_group_that_may_be_null_is_there_once_one_of_its_settings_is_given(
    tmp_path: Path, overrides: list[str]
):
    assert load().learner.lora is None
    (tmp_path / "run.yaml").write_text("learner: {lora: null}\n")
    for file in (None, tmp_path / "run.yaml"):
        config = settings.load(file, overrides)
        assert config.learner.lora == LoraSettings(rank=8, target_modules=["q_proj", "007"])
        assert str(config.learner.lora) == "{rank: 8, alpha: 32.0, target_modules: [q_proj, 007]}"
        assert settings.loads(settings.dump(config)) == config
        assert dict(settings.flatten(config))["learner.lora"] == config.learner.lora
    assert load("learner.lora={}").learner.lora == LoraSettings()
    assert settings.load(None, [*overrides, "learner.lora=null"]).learner.lora is None


def test_what_is_in_a_group_that_may_be_null_is_listed_and_its_mistakes_are_told_by_their_keys():
    listed = [key for key, *_ in settings.describe()]
    at = listed.index("learner.lora")
    assert listed[at + 1 : at + 3] == ["learner.lora.rank", "learner.lora.alpha"]
    with pytest.raises(ConfigError) as error:
        load("learner.lora={rank: 0, target_modules: q_proj, alhpa: 1}")
    for message in (
        "learner.lora.rank=0: input should be greater",
        "learner.lora.target_modules='q_proj': input should be a valid list",
        "learner.lora.target_modules='q_proj': input should be 'all-linear'",
        "learner.lora.alhpa=1: there is no such setting; did you mean learner.lora.alpha?",
    ):
        assert message in str(error.value)


def test_a_file_for_one_method_serves_another_that_is_chosen_over_it(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("method: dps\nselector: {decay: 0.5, rest: 3}\n")
    assert settings.load(file, ["method=dps_pooled"]).selector == PooledStore.Settings(
        decay=0.5, rest=3
    )
    assert settings.load(file, ["method=uniform"]).selector == UniformSelector.Settings(rest=3)
    with pytest.raises(ConfigError, match=r"selector.decay is a setting of dps, dps_pooled"):
        settings.load(file, ["method=uniform", "selector.decay=0.5"])
    file.write_text("method: uniform\nselector: {decay: 0.5}\n")
    with pytest.raises(ConfigError, match=r"selector.decay is a setting of dps, dps_pooled"):
        settings.load(file)
    file.write_text("method: dps\nselector: {decya: 0.5}\n")
    with pytest.raises(ConfigError, match=r"selector.decya=0.5: there is no such setting"):
        settings.load(file, ["method=uniform"])


def test_the_settings_of_a_selector_say_its_method():
    config = Config(selector=MoPPS.Settings(beta_decay=0.3, rest=2))
    assert config.method == "mopps"
    assert config == Config(method=MoPPS, selector={"beta_decay": 0.3, "rest": 2})
    assert config == settings.loads(settings.dump(config))
    assert config == load("method=mopps", "selector.beta_decay=0.3", "selector.rest=2")
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ConfigError, match="settings of another method than uniform"):
        Config(method="uniform", selector=MoPPS.Settings())
    with pytest.raises(ConfigError, match="not the Settings of one selector; give method too"):
        Config(selector=SelectorSettings(rest=2))


@pytest.mark.parametrize("method", methods.BUILT_IN)
def test_the_settings_of_every_method_are_written_and_read_back(method: str):
    needed = ["selector.start=evaluations"] if method == "offline_filter" else []
    config = load(f"method={method}", "selector.rest=2", *needed)
    assert type(config.selector) is methods.BUILT_IN[method].Settings
    assert settings.loads(settings.dump(config)) == config
    assert Config(selector=config.selector).method == method


def test_a_configuration_that_an_earlier_version_wrote_is_read(tmp_path: Path):
    before = Path("tests/data/earlier/dps_pooled.yaml").read_text()  # of all methods, with nulls
    config = settings.loads(before)
    earlier = [
        "loop.batch_size=64",
        "loop.filter_groups=false",
        "rollout.group_size=8",
        "learner.lr=1e-4",
        "learner.minibatches=2",
        "learner.epochs=1",
    ]
    assert config == settings.load(Path("dps_ray/configs/arithmetic.yaml"), earlier)
    assert config.selector == PooledStore.Settings(cluster_column="extra_info.level")
    other = before.replace("method: dps_pooled", "method: mopps")
    (tmp_path / "config.yaml").write_text(other.replace("beta_decay: 0.5", "beta_decay: 0.25"))
    config = settings.load(tmp_path / "config.yaml")
    assert config.selector == MoPPS.Settings(beta_decay=0.25)
    with pytest.raises(ConfigError, match=r"selector.momentum=1: there is no such setting"):
        settings.loads(before.replace("cluster_decay: 0.9", "cluster_decay: 0.9\n  momentum: 1"))


def test_the_help_lists_what_all_methods_have_and_then_says_whose_the_others_are():
    listed = [(key, text) for key, _, _, text in settings.describe() if key.startswith("selector.")]
    keys = [key.partition(".")[2] for key, _ in listed]
    assert keys[:3] == ["rest", "max_uses", "fresh_share"]
    assert all(text.startswith("Only for ") for _, text in listed[3:])
    own = {key for method in methods.BUILT_IN.values() for key in types_of(method.Settings)}
    assert set(keys) == own
    of = {(key, text.partition(".")[0]) for key, text in listed}
    assert ("selector.beta_decay", "Only for mopps, mapp") in of
    assert ("selector.temperature", "Only for dps, variance_ema") in of


def test_every_setting_is_documented():
    assert [key for key, _, _, text in settings.describe() if not text] == []


@pytest.mark.parametrize(
    "file", sorted(Path("dps_ray/configs").glob("*.yaml")), ids=lambda f: f.stem
)
def test_the_shipped_configurations_are_valid(file: Path):
    settings.load(file)
