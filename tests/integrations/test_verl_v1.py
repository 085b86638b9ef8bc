"""verl 0.9's own trainer, loader, replay buffer and TransferQueue on a live Ray, with the rollouts simulated."""

import itertools
from pathlib import Path
from typing import NamedTuple

import pytest
import ray

pytest.importorskip(
    "verl.trainer.ppo.v1", reason="verl 0.9 is not installed: make test-integrations"
)

import torch
import transfer_queue as tq
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from dps_ray.errors import ConfigError
from dps_ray.integrations import verl as plug_in
from tests.integrations.verl_data import RESPONSES, level, rewards, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.starts_ray]

BATCH = 8
DATASET = (
    "data.custom_cls.path=pkg://dps_ray.integrations.verl",
    "data.custom_cls.name=DPSDataset",
    "data.dataloader_num_workers=0",
)
BUFFER = (
    "trainer.v1.sampler.custom_sampler.path=pkg://dps_ray.integrations.verl_v1",
    "trainer.v1.sampler.custom_sampler.name=DPSReplayBuffer",
    "+trainer.v1.sampler.sampler_kwargs.poll_interval=0.05",
)
ASYNC = (
    "trainer.v1.trainer_mode=colocate_async",
    "trainer.v1.sampler.custom_sampler.name=DPSReplayBufferAsync",
)


@pytest.fixture(scope="module", autouse=True)
def queue():
    """A Ray with verl's TransferQueue."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    tq.init()
    yield
    tq.close()
    ray.shutdown()


@pytest.fixture(autouse=True)
def empty():
    """What a test leaves in the queue is not for the next one."""
    yield
    for partition, items in (tq.kv_list() or {}).items():
        if items:
            tq.kv_clear(keys=list(items), partition_id=partition)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    return write_rows(folder / "train.parquet", 360), write_rows(folder / "test.parquet", 6)


class Rollouts:
    """Stands for the agent loops: it puts into the queue what verl's AgentLoopWorkerTQ puts there."""

    def __init__(self, fail=lambda index: False):
        self.fail, self.calls = fail, itertools.count()
        self.given: list[str] = []
        self.held, self.holds = [], 0

    def generate_sequences(self, batch):
        prompts = [
            {
                name: getattr(value[at], "data", value[at])
                for name, value in batch.items()
                if name != "global_steps"
            }
            for at in range(len(batch))
        ]
        self.given += [prompt["extra_info"]["index"] for prompt in prompts]
        self.held += prompts
        while len(self.held) > self.holds:
            self.finish(self.held.pop())  # those asked for last are done first

    def finish(self, prompt):
        uid, info, step = prompt["uid"], prompt["extra_info"], next(self.calls)
        if self.fail(info["index"]):
            tq.kv_put(
                key=uid,
                partition_id="train",
                tag={"is_prompt": True, "status": "failure", "global_steps": 1},
            )
            return
        fields, keys = [], []
        for session, reward in enumerate(rewards([info] * RESPONSES, step)):
            for index in range(2):  # the outputs of a session of several turns share its reward
                scores = torch.zeros(session + 2)
                scores[-1] = reward
                keys.append(f"{uid}_{session}_{index}")
                fields.append(
                    {
                        "responses": torch.zeros(session + 2, dtype=torch.int64),
                        "rm_scores": scores,
                        "extra_fields": {"reward_extra_info": {"acc": reward}},
                        **prompt,
                    }
                )
        tags = [{"status": "success", "global_steps": 1} for _ in keys]
        tq.kv_batch_put(
            keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(fields), tags=tags
        )
        tq.kv_put(
            key=uid,
            partition_id="train",
            tag={"is_prompt": True, "status": "finished", "global_steps": 1},
        )


class Run(NamedTuple):
    trainer: PPOTrainerSync
    rollouts: Rollouts

    def step(self):
        """One step without a model: as `PPOTrainer.step`, `fit` and their checkpoints have it."""
        self.trainer._add_batch_to_generate()
        batch, metrics = self.trainer.replay_buffer.sample(
            global_steps=self.trainer.global_steps, partition_id="train", batch_size=BATCH
        )
        tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
        self.trainer.global_steps += 1
        return metrics

    @property
    def rows(self):
        return self.trainer.train_dataset.rows


def config_of(data, *overrides):
    """What verl's command line makes of these arguments."""
    folder = str(Path(verl.__file__).parent / "trainer" / "config")
    with initialize_config_dir(config_dir=folder, version_base=None):
        return compose(
            "ppo_trainer",
            overrides=[
                f"data.train_files={data[0]}",
                f"data.val_files={data[1]}",
                f"data.train_batch_size={BATCH}",
                "data.seed=1",
                f"actor_rollout_ref.rollout.n={RESPONSES}",
                *overrides,
            ],
        )


def started(data, *overrides, trainer=PPOTrainerSync, fail=lambda index: False):
    run = Run(trainer(config_of(data, *DATASET, *BUFFER, *overrides)), Rollouts(fail))
    run.trainer.tokenizer = run.trainer.processor = None  # rows are tokenized by the agent loops
    run.trainer._init_dataloader()
    run.trainer.agent_loop_manager, run.trainer.global_steps = run.rollouts, 1
    return run


def test_batches_are_of_the_prompts_that_are_partly_solved(data):
    run = started(data, "+data.dps.kinds=extra_info.level")
    found = [run.step()["dps/effective_ratio"] for _ in range(12)]
    assert sum(found[-4:]) / 4 > 0.6  # a third of the prompts is, and of groups of four 7/8 show it
    assert len(run.rollouts.given) == 12 * BATCH
    assert run.rows.metrics()["dps/in_flight"] == 0
    assert run.rows.metrics()["dps/groups"] == 12 * BATCH


def test_a_resumed_run_chooses_as_the_undisturbed_one(data, tmp_path):
    whole = started(data)
    for _ in range(3):
        whole.step()
    torch.save(whole.trainer.train_dataloader.state_dict(), tmp_path / "data.pt")
    for _ in range(3):
        whole.step()
    resumed = started(data)
    resumed.trainer.train_dataloader.load_state_dict(
        torch.load(tmp_path / "data.pt", weights_only=False)
    )
    resumed.rollouts.calls = itertools.count(3 * BATCH)
    for _ in range(3):
        resumed.step()
    assert resumed.rollouts.given == whole.rollouts.given[3 * BATCH :]


def test_validation_gets_the_rows_that_it_asks_for(data):
    run = started(data)
    (batch,) = run.trainer.val_dataloader
    assert sorted(info["index"] for info in batch["extra_info"]) == [
        f"test-{row}" for row in range(6)
    ]
    assert run.rows.metrics()["dps/in_flight"] == 0


def test_an_epoch_ends_and_the_choice_goes_on(data, tmp_path):
    run = started((write_rows(tmp_path / "few.parquet", 2 * BATCH), data[1]))
    for _ in range(5):
        run.step()
    assert run.rows.metrics()["dps/groups"] == 5 * BATCH


def test_rewards_of_groups_that_the_filter_discards_are_learned_from(data):
    run = started(
        data,
        "algorithm.filter_groups.enable=True",
        "+trainer.v1.sampler.sampler_kwargs.filter_groups_metric=acc",
        f"+trainer.v1.sampler.sampler_kwargs.train_batch_size={BATCH}",
        "+trainer.v1.sampler.sampler_kwargs.gen_batch_size=1",
    )
    metrics = run.step()
    groups = run.rows.metrics()
    assert metrics["training/filter_groups/evicted_samples"] > 0
    assert groups["dps/groups"] + groups["dps/open_groups"] == len(run.rollouts.given) > BATCH
    assert groups["dps/in_flight"] == 0


def test_prompts_that_failed_are_free_again(data):
    run = started(data, fail=lambda index: index.endswith("7"))
    for _ in range(4):
        run.step()
    found = run.rows.metrics()
    assert found["dps/released"] > 0
    assert found["dps/in_flight"] == 0


def test_accuracies_say_what_is_right_where_one_is_named(data):
    run = started(data, "+data.dps.accuracy=acc", "+data.dps.threshold=100")
    found = [run.step()["dps/effective_ratio"] for _ in range(3)]
    assert any(ratio > 0 for ratio in found)


def test_asynchronous_groups_come_late_and_none_is_forgotten(data):
    run = started(
        data, *ASYNC, trainer=PPOTrainerColocateAsync, fail=lambda index: index.endswith("7")
    )
    run.rollouts.holds = 2 * BATCH
    run.trainer._add_prompts_to_generate(2 * BATCH)
    found = [run.step() for _ in range(6)]
    assert found[-1]["dps/in_flight"] == len(run.rollouts.held) == 2 * BATCH
    assert found[-1]["dps/released"] > 0
    assert found[-1]["dps/late"] == 0


def test_a_resumed_asynchronous_run_keeps_what_the_queue_continues(data):
    run = started(data, *ASYNC, trainer=PPOTrainerColocateAsync)
    run.rollouts.holds = BATCH
    run.trainer._add_batch_to_generate()
    state = run.trainer.train_dataloader.state_dict()
    resumed = started(data, *ASYNC, trainer=PPOTrainerColocateAsync)
    resumed.trainer.train_dataloader.load_state_dict(state)
    resumed.rollouts.holds = BATCH
    resumed.trainer._add_batch_to_generate()
    assert not set(run.rollouts.given) & set(resumed.rollouts.given)


def test_rewards_that_come_after_sampling_are_refused_with_the_remedy(data):
    run = started(data)
    keep = run.rollouts.finish

    def without_rewards(prompt):
        keep(prompt)
        keys = [key for key in tq.kv_list("train")["train"] if key.startswith(prompt["uid"] + "_")]
        tq.kv_clear(keys=keys, partition_id="train")
        fields = list_of_dict_to_tensordict([{"extra_info": prompt["extra_info"]}])
        tq.kv_batch_put(
            keys=[f"{prompt['uid']}_0_0"],
            partition_id="train",
            fields=fields,
            tags=[{"status": "success", "global_steps": 1}],
        )

    run.rollouts.finish = without_rewards
    with pytest.raises(ConfigError, match="enable_resource_pool"):
        run.step()


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (("data.dataloader_num_workers=2",), "data.dataloader_num_workers=0"),
        (("trainer.v1.sampler.custom_sampler.name=null",), "pkg://dps_ray.integrations.verl_v1"),
        (("+data.dps.kinds=level",), "extra_info"),
        (("+data.dps.metod=dps",), "metod"),
    ],
)
def test_a_command_line_that_cannot_work_says_what_to_write(data, overrides, remedy):
    with pytest.raises(ConfigError, match=remedy):
        started(data, *overrides)


def test_a_buffer_of_the_other_kind_of_trainer_is_refused(data):
    with pytest.raises(ConfigError, match="name=DPSReplayBufferAsync"):
        started(data, "trainer.v1.trainer_mode=colocate_async")


def test_a_buffer_without_the_dataset_says_what_is_missing(data):
    run = started(data)
    run.trainer._add_batch_to_generate()
    plug_in.ChoosesRows.active = None
    with pytest.raises(ConfigError, match=r"data\.custom_cls"):
        run.trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=BATCH)


def test_levels_are_as_the_simulation_has_them(data):
    dataset = started(data).trainer.train_dataset
    assert OmegaConf.is_config(dataset.config)
    assert [dataset[row]["extra_info"]["level"] for row in range(3)] == [
        level(row) for row in range(3)
    ]
