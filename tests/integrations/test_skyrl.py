"""SkyRL's own trainer, loader and dynamic sampling, up to where a model would be trained; generation is simulated."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("skyrl.train.trainer", reason="SkyRL is not installed: make test-integrations")

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.dataset import PromptDataset
from skyrl.train.fully_async_trainer import FullyAsyncRayPPOTrainer
from skyrl.train.generators.base import GeneratorInterface
from skyrl.train.generators.utils import prepare_generator_input
from transformers import AutoTokenizer

from dps_ray.errors import ConfigError
from dps_ray.integrations.skyrl import ChoosesPrompts, DPSTrainer

pytestmark = pytest.mark.slow

PROMPTS, SAMPLES, BATCH = 240, 4, 8
LEVELS = ["easy", "fitting", "hard"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory, tiny_policy):
    file = tmp_path_factory.mktemp("prompts") / "train.parquet"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{row}+1="}],
            "level": LEVELS[row % 3],
            "id": f"problem {row}",
        }
        for row in range(PROMPTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return PromptDataset(str(file), tokenizer, max_prompt_length=64, num_workers=1)


class Generator(GeneratorInterface):
    """Of the samples of a fitting prompt, every other one is right. In steps: a wrong one comes before each."""

    def __init__(self, steps=1, by_token=False):
        self.steps, self.by_token = steps, by_token
        self.given = []

    async def generate(self, input_batch):
        ids, rewards, last = [], [], []
        for trajectory, extras in zip(
            input_batch["trajectory_ids"], input_batch["env_extras"], strict=True
        ):
            level, odd = extras["level"], trajectory.repetition_id % 2
            right = float(level == "easy" or (level == "fitting" and odd == 0))
            ids += [trajectory] * self.steps
            rewards += [0.0] * (self.steps - 1) + [right]
            last += [False] * (self.steps - 1) + [True]
            self.given.append(extras["id"])
        found = {
            "prompt_token_ids": [[1, 2] for _ in ids],
            "response_ids": [[3, 4] for _ in ids],
            "rewards": [[0.0, reward] for reward in rewards] if self.by_token else rewards,
            "loss_masks": [[1, 1] for _ in ids],
            "stop_reasons": ["stop" for _ in ids],
            "rollout_metrics": None,
            "rollout_logprobs": None,
        }
        return found if self.steps == 1 else {**found, "trajectory_ids": ids, "is_last_step": last}


def trainer_with(
    prompts, generator=None, ranks=1, sampling=None, workers=0, kind=DPSTrainer, **dps
):
    cfg = SkyRLTrainConfig()
    cfg.trainer.train_batch_size, cfg.trainer.seed, cfg.trainer.epochs = BATCH, 1, 2
    cfg.trainer.policy_mini_batch_size = BATCH
    cfg.trainer.fully_async.num_parallel_generation_workers = BATCH
    cfg.trainer.resume_mode = "none"
    cfg.trainer.enable_ray_gpu_monitor = False
    cfg.generator.inference_engine.enable_ray_prometheus_stats = False
    cfg.data.dataloader.num_workers = workers
    cfg.generator.n_samples_per_prompt = SAMPLES
    cfg.generator.step_wise_trajectories = generator is not None and generator.steps > 1
    cfg.trainer.algorithm.dynamic_sampling.type = sampling
    cfg.trainer.algorithm.dynamic_sampling.max_sample_batches = 10
    trainer = kind(
        cfg=cfg,
        tracker=None,
        tokenizer=None,
        train_dataset=prompts,
        inference_engine_client=None,
        generator=generator or Generator(),
        dps=dps,
    )
    trainer.dispatch = SimpleNamespace(get_lcm_dp_size=lambda: ranks)
    return trainer


def step(trainer, batches):
    """What SkyRL's `train` does for a step of the policy, up to its training."""
    for batch in batches:
        cfg = trainer.cfg
        batch = trainer._remove_tail_data(batch)
        given, uids = prepare_generator_input(batch, SAMPLES, {}, "problems", "train", 1)
        output = asyncio.run(trainer.generate(given))
        if cfg.generator.step_wise_trajectories:
            uids = [each.instance_id for each in output["trajectory_ids"]]
        if cfg.trainer.algorithm.dynamic_sampling.type is not None:
            output, uids, keep_sampling = trainer.handle_dynamic_sampling(output, uids)
            if keep_sampling:
                continue
        trainer.postprocess_generator_output(output, uids)
        return
    raise AssertionError("the epoch ended within a step")


def steps(trainer, count):
    batches = iter(trainer.train_dataloader)
    before = len(trainer.generator.given)
    for _ in range(count):
        step(trainer, batches)
    return trainer.generator.given[before:]


def metrics(trainer):
    return trainer.train_dataset.rows.metrics()


def test_batches_are_of_the_prompts_that_are_partly_solved(prompts):
    trainer = trainer_with(prompts, kinds="level")
    given = steps(trainer, 8)
    assert len(set(given)) == 8 * BATCH
    assert trainer.all_metrics["dps/steps"] == 8
    assert metrics(trainer)["dps/in_flight"] == 0
    assert metrics(trainer)["dps/effective_ratio_mean"] > 0.7


@pytest.mark.parametrize("key", [None, "id"])
def test_a_resumed_run_chooses_as_the_undisturbed_one(prompts, key, tmp_path):
    whole = trainer_with(prompts, key=key)
    batches = iter(whole.train_dataloader)
    for _ in range(3):
        step(whole, batches)
    torch.save(whole.train_dataloader.state_dict(), tmp_path / "data.pt")
    before = len(whole.generator.given)
    for _ in range(3):
        step(whole, batches)
    resumed = trainer_with(prompts, key=key)
    resumed.train_dataloader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))
    assert steps(resumed, 3) == whole.generator.given[before:]


@pytest.mark.parametrize(
    "generator",
    [Generator(), Generator(by_token=True), Generator(steps=2)],
    ids=["plain", "tokens", "steps"],
)
def test_rewards_are_of_responses_whatever_their_form(prompts, generator):
    trainer, plain = trainer_with(prompts, generator), trainer_with(prompts)
    assert steps(trainer, 3) == steps(plain, 3)


def test_groups_that_dynamic_sampling_filters_are_learned_from_in_the_same_step(prompts):
    trainer = trainer_with(prompts, sampling="filter")
    given = steps(trainer, 1)
    found = metrics(trainer)
    assert found["dps/groups"] == len(given) / SAMPLES > BATCH
    assert (found["dps/steps"], found["dps/in_flight"]) == (1, 0)


def test_groups_that_dynamic_sampling_puts_in_the_place_of_others_count_once(prompts):
    trainer = trainer_with(prompts, sampling="replace", kinds="level")
    steps(trainer, 4)
    found = metrics(trainer)
    assert found["dps/groups"] == len(trainer.generator.given) / SAMPLES


def test_prompts_that_are_cut_off_the_batch_are_free(prompts):
    trainer = trainer_with(prompts, ranks=12)  # 6 of 8 prompts with 4 samples each
    steps(trainer, 2)
    found = metrics(trainer)
    assert (found["dps/groups"], found["dps/released"], found["dps/in_flight"]) == (12, 4, 0)


def test_processes_of_the_loader_are_refused(prompts):
    with pytest.raises(ConfigError, match="num_workers=0"):
        trainer_with(prompts, workers=2)


def test_the_fully_asynchronous_trainer_is_refused(prompts):
    class Mine(ChoosesPrompts, FullyAsyncRayPPOTrainer):
        pass

    with pytest.raises(ConfigError, match="once an epoch"):
        trainer_with(prompts, kind=Mine)


@pytest.mark.parametrize(
    ("option", "said"), [({"kinds": "topic"}, "level, id"), ({"metod": "dps"}, "metod")]
)
def test_options_that_cannot_be_used_are_named(prompts, option, said):
    with pytest.raises(ConfigError, match=said):
        trainer_with(prompts, **option)
