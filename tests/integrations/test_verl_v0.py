"""The earlier trainer of verl 0.7, 0.8 and 0.9: its own loaders, configuration and order of calls, with rollouts simulated."""

import itertools
from pathlib import Path

import pytest

pytest.importorskip("verl", reason="verl is not installed: make test-integrations")

import numpy as np
import torch
import verl
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl import DataProto
from verl.trainer.ppo.ray_trainer import RayPPOTrainer

from dps_ray.errors import ConfigError, FrameworkError
from tests.integrations.verl_data import RESPONSES, rewards, write_rows

pytestmark = pytest.mark.slow

VERSION = tuple(int(part) for part in verl.__version__.split(".")[:2])
BATCH = 8
DATASET = (
    "data.custom_cls.path=pkg://dps_ray.integrations.verl",
    "data.custom_cls.name=DPSDataset",
    *(["trainer.use_v1=False"] if VERSION >= (0, 9) else []),
)
SAMPLER = (
    "data.sampler.class_path=pkg://dps_ray.integrations.verl_07",
    "data.sampler.class_name=DPSCurriculumSampler",
)
PLUG_INS = [
    pytest.param(DATASET, id="dataset"),
    pytest.param(
        SAMPLER,
        id="curriculum sampler",
        marks=pytest.mark.skipif(VERSION >= (0, 8), reason="verl 0.8 took it out"),
    ),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    return write_rows(folder / "train.parquet", 360), write_rows(folder / "test.parquet", 6)


def trainer_with(data, *overrides):
    """verl's trainer with its loaders, as the command line with these arguments makes it, and without workers."""
    folder = str(Path(verl.__file__).parent / "trainer" / "config")
    with initialize_config_dir(config_dir=folder, version_base=None):
        config = compose(
            "ppo_trainer",
            overrides=[
                f"data.train_files={data[0]}",
                f"data.val_files={data[1]}",
                f"data.train_batch_size={BATCH}",
                "data.dataloader_num_workers=0",
                "data.seed=1",
                f"actor_rollout_ref.rollout.n={RESPONSES}",
                *overrides,
            ],
        )
    trainer = object.__new__(RayPPOTrainer)
    trainer.config, trainer.tokenizer, trainer.processor = config, None, None
    trainer._create_dataloader(None, None, None, None)
    return trainer


def step(trainer, batch_dict, calls):
    """What `fit` does with a batch, where it touches prompts and rewards; returns the batch."""
    batch = DataProto.from_single_dict(batch_dict)
    batch.non_tensor_batch["uid"] = np.array(
        [f"{next(calls)}" for _ in range(len(batch))], dtype=object
    )
    seed = int(batch.non_tensor_batch["uid"][0])
    trainer._get_gen_batch(batch)
    batch = batch.repeat(repeat_times=RESPONSES, interleave=True)
    batch.reorder(torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed)))
    found = rewards(batch.non_tensor_batch["extra_info"], seed)
    scores = torch.zeros(len(batch), 3)
    scores[:, -1] = torch.tensor(found)
    batch.batch["token_level_scores"] = scores
    batch.non_tensor_batch["acc"] = np.array(found)
    sampler = trainer.train_dataloader.sampler
    if hasattr(sampler, "update"):
        sampler.update(batch=batch)
    if hasattr(trainer.train_dataset, "on_batch_end"):
        trainer.train_dataset.on_batch_end(batch=batch)
    return batch


def steps(trainer, count, calls=None):
    """Takes steps; returns the prompts of each."""
    calls = itertools.count() if calls is None else calls
    given = []
    for batch_dict in itertools.islice(trainer.train_dataloader, count):
        batch = step(trainer, batch_dict, calls)
        given.append(sorted({info["index"] for info in batch.non_tensor_batch["extra_info"]}))
    return given


def rows_of(trainer):
    return getattr(trainer.train_dataset, "rows", None) or trainer.train_dataloader.sampler.rows


@pytest.mark.parametrize("plug_in", PLUG_INS)
def test_batches_are_of_the_prompts_that_are_partly_solved(data, plug_in):
    trainer = trainer_with(data, *plug_in, "+data.dps.kinds=extra_info.level")
    given = steps(trainer, 12)
    assert all(len(batch) == BATCH for batch in given)
    found = rows_of(trainer).metrics()
    assert found["dps/groups"] == 12 * BATCH
    assert found["dps/in_flight"] == 0
    assert found["dps/effective_ratio_mean"] > 0.6


@pytest.mark.parametrize("plug_in", PLUG_INS)
def test_a_resumed_run_chooses_as_the_undisturbed_one(data, plug_in, tmp_path):
    whole, calls = trainer_with(data, *plug_in), itertools.count()
    loader = iter(whole.train_dataloader)
    for _ in range(3):
        step(whole, next(loader), calls)
    torch.save(whole.train_dataloader.state_dict(), tmp_path / "data.pt")
    expected = []
    for _ in range(3):
        batch = step(whole, next(loader), calls)
        expected.append(sorted({info["index"] for info in batch.non_tensor_batch["extra_info"]}))
    resumed = trainer_with(data, *plug_in)
    resumed.train_dataloader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))
    assert steps(resumed, 3, itertools.count(3 * BATCH)) == expected


@pytest.mark.parametrize("plug_in", PLUG_INS)
def test_a_checkpoint_before_the_report_frees_the_batch(data, plug_in):
    trainer, calls = trainer_with(data, *plug_in), itertools.count()
    loader = iter(trainer.train_dataloader)
    step(trainer, next(loader), calls)
    next(loader)
    resumed = trainer_with(data, *plug_in)
    resumed.train_dataloader.load_state_dict(trainer.train_dataloader.state_dict())
    steps(resumed, 1, calls)
    found = rows_of(resumed).metrics()
    assert (found["dps/groups"], found["dps/in_flight"]) == (2 * BATCH, 0)


@pytest.mark.parametrize("plug_in", PLUG_INS)
def test_epochs_end(data, plug_in, tmp_path):
    trainer = trainer_with((write_rows(tmp_path / "few.parquet", 2 * BATCH), data[1]), *plug_in)
    calls = itertools.count()
    assert [len(steps(trainer, 5, calls)) for _ in range(3)] == [2, 2, 2]
    assert rows_of(trainer).metrics()["dps/groups"] == 6 * BATCH


@pytest.mark.parametrize("plug_in", PLUG_INS)
def test_validation_gets_the_rows_that_it_asks_for(data, plug_in):
    trainer = trainer_with(data, *plug_in)
    (batch,) = trainer.val_dataloader
    assert sorted(info["index"] for info in batch["extra_info"]) == [
        f"test-{row}" for row in range(6)
    ]


@pytest.mark.parametrize("plug_in", PLUG_INS)
def test_accuracies_say_what_is_right_where_one_is_named(data, plug_in):
    trainer = trainer_with(data, *plug_in, "+data.dps.accuracy=acc", "+data.dps.threshold=100")
    steps(trainer, 3)
    assert rows_of(trainer).metrics()["dps/effective_ratio_mean"] > 0


@pytest.mark.parametrize("plug_in", PLUG_INS)
def test_an_accuracy_that_no_reward_function_returned_is_named(data, plug_in):
    trainer = trainer_with(data, *plug_in, "+data.dps.accuracy=accuracy")
    with pytest.raises(ConfigError, match=r"accuracy=accuracy.*acc"):
        steps(trainer, 1)


@pytest.mark.skipif(VERSION < (0, 8), reason="verl 0.7 has it")
def test_without_a_curriculum_sampler_the_error_names_the_dataset():
    with pytest.raises(FrameworkError, match="name=DPSDataset"):
        import dps_ray.integrations.verl_07  # noqa: F401


@pytest.mark.skipif(VERSION >= (0, 9), reason="verl 0.9 has them")
def test_without_the_trainers_of_0_9_the_error_says_that_the_dataset_is_enough():
    with pytest.raises(FrameworkError, match=r"data\.custom_cls alone"):
        import dps_ray.integrations.verl_v1  # noqa: F401


@pytest.mark.skipif(VERSION >= (0, 8), reason="verl 0.8 took it out")
def test_a_key_that_does_not_come_back_with_rewards_is_refused(data):
    with pytest.raises(ConfigError, match=r"extra_info\.index"):
        trainer_with(data, *SAMPLER, "+data.dps.key=data_source")


@pytest.mark.skipif(VERSION != (0, 8), reason="only verl 0.8 has it")
def test_the_program_of_0_8_that_reports_no_rewards_is_refused(data):
    with pytest.raises(ConfigError, match=r"main_ppo"):
        trainer_with(data, *DATASET, "transfer_queue.enable=True")


def test_the_configuration_is_verls_own(data):
    assert OmegaConf.is_config(trainer_with(data, *DATASET).train_dataset.config)
