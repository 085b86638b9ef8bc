"""A learner goes on from its checkpoint with any number of ranks, after any of them died, on a full disk."""

import shutil

import numpy as np
import pytest
import torch
from pyarrow import fs
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.learner import Learner
from cluster.placement import Placement, plan
from dps_ray.durable import DEEPSPEED_TAG, Manifest, Storage, checkpoint_folder, verify
from dps_ray.errors import CheckpointError, LearnerLostError
from dps_ray.failpoints import VARIABLE, fail_at
from dps_ray.weights import WeightsId
from tests.faults.learner_alone import batch, config

pytestmark = pytest.mark.slow


FIXED = batch(seed=99)


def manifest(stored, step, ranks, zero_stage, epoch=1) -> Manifest:
    return Manifest(
        epoch=epoch,
        step=step,
        files=tuple(stored),
        lineage=((epoch, 0),),
        dataset_fingerprint="",
        config_hash="",
        weight_version=step,
        belief_shards=1,
        learner_ranks=ranks,
        zero_stage=zero_stage,
        deepspeed_tag=DEEPSPEED_TAG,
    )


def started(folder, storage, from_manifest, *, zero_stage, ranks, model, epoch, more=()):
    settings = config(folder, zero_stage, ranks, *more)
    learner = Learner(settings, str(model), "gloo", epoch, Placement(plan(settings)).learner)
    learner.start(storage, from_manifest)
    return learner


def in_object_store(folder) -> Storage:
    """A store without folders that other programs could read or write."""
    folder.mkdir()
    return Storage("store://run", fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), None)


@pytest.mark.parametrize(
    ("zero_stage", "numbers_of_ranks", "object_store"),
    [(1, (1, 2, 1), False), (3, (2, 1), True)],
)
def test_state_survives_another_number_of_ranks(
    local_ray, failpoints, tmp_path, tiny_policy, zero_stage, numbers_of_ranks, object_store
):
    storage = in_object_store(tmp_path / "store") if object_store else Storage.at(tmp_path)
    saved, logprobs, after = None, None, None
    for epoch, ranks in enumerate(numbers_of_ranks, 1):
        learner = started(
            tmp_path,
            storage,
            saved,
            zero_stage=zero_stage,
            ranks=ranks,
            model=tiny_policy,
            epoch=epoch,
        )
        if saved is None:
            assert storage.list("ckpt") == []  # of the trial at the start
            learner.train(batch(seed=1), 1).result()
            logprobs = learner.logprobs(FIXED)
            failed = failpoints("learner.save.weights", "error", step=1, rank=0)
            with pytest.raises(CheckpointError, match="rank 0: KeyError"):
                learner.save(storage, checkpoint_folder(1, 1)).result()
            assert failed.went_off
        assert learner.weights == WeightsId(epoch, 1)
        assert learner.logprobs(FIXED) == pytest.approx(logprobs, abs=1e-5)
        saving = learner.save(storage, checkpoint_folder(epoch, 1))
        metrics = learner.train(batch(seed=2), 2).result().metrics  # while the files are hashed
        stored = saving.result()
        assert metrics["actor/lr"] == pytest.approx(1e-3 * 5 / 10)  # four optimizer steps were made
        if after is None:
            after = learner.logprobs(FIXED)
            assert np.abs(np.subtract(after, logprobs)).max() > 1e-3
        assert learner.logprobs(FIXED) == pytest.approx(after, abs=1e-5)
        learner.kill()
        saved = manifest(stored, step=1, ranks=ranks, zero_stage=zero_stage, epoch=epoch)
        verify(storage, saved)
        written = set(storage.list(checkpoint_folder(epoch, 1)))
        assert written == {file.path for file in saved.files}
        assert not any(path.endswith("latest") for path in written)


@pytest.mark.parametrize(
    ("zero_stage", "numbers_of_ranks"), [(0, (1, 1)), (2, (2, 1)), (3, (2, 1))]
)
def test_adapters_go_on_from_a_checkpoint_on_the_start_policy(
    local_ray, tmp_path, tiny_policy, zero_stage, numbers_of_ranks
):
    storage = Storage.at(tmp_path)
    saved, logprobs, after = None, None, None
    for epoch, ranks in enumerate(numbers_of_ranks, 1):
        learner = started(
            tmp_path,
            storage,
            saved,
            zero_stage=zero_stage,
            ranks=ranks,
            model=tiny_policy,
            epoch=epoch,
            more=["learner.lora={rank: 4}", "learner.minibatches=1", "objective.kl_coef=0.1"],
        )
        if saved is None:
            metrics = learner.train(batch(seed=1), 1).result().metrics
            # Adapters start as nothing.
            assert metrics["actor/kl_loss"] == pytest.approx(0.0, abs=1e-9)
            logprobs = learner.logprobs(FIXED)
        assert learner.logprobs(FIXED) == pytest.approx(logprobs, abs=1e-5)
        saving = learner.save(storage, checkpoint_folder(epoch, 1))
        metrics = learner.train(batch(seed=2), 2).result().metrics  # while the files are hashed
        stored = saving.result()
        assert metrics["actor/kl_loss"] > 1e-6  # to the start policy
        if after is None:
            after = learner.logprobs(FIXED)
            assert np.abs(np.subtract(after, logprobs)).max() > 1e-3
        assert learner.logprobs(FIXED) == pytest.approx(after, abs=1e-5)
        learner.kill()
        saved = manifest(stored, step=1, ranks=ranks, zero_stage=zero_stage, epoch=epoch)
        verify(storage, saved)

        # All that the engines and others are given is merged, and the rest is adapters alone.
        checkpoint = tmp_path / checkpoint_folder(epoch, 1)
        assert logprobs_of(checkpoint / "model") == pytest.approx(logprobs, abs=1e-5)
        check_merged(checkpoint, tiny_policy, scaling=32 / 4)
        for file in (checkpoint / "learner" / DEEPSPEED_TAG).glob("*_model_states.pt"):
            state = torch.load(file, weights_only=False)
            assert not state.get("frozen_param_fragments")
            assert all(".lora_" in name for name in state["module"])


def logprobs_of(model) -> list[float]:
    """Of the fixed batch, by a folder in plain transformers."""
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found = []
    sequences = np.split(FIXED.tokens, FIXED.lengths.cumsum()[:-1])
    for sequence, response in zip(sequences, FIXED.response_lengths, strict=True):
        tokens = torch.from_numpy(sequence).long()
        with torch.no_grad():
            logits = policy(input_ids=tokens[None, :-1]).logits[0]
        all_of_them = logits.log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
        found += all_of_them[-response:].tolist()
    return found


def check_merged(checkpoint, start, scaling):
    """The model's weights are to the bit the start policy's, with what the adapter folder adds to them."""
    weights = load_file(checkpoint / "model" / "model.safetensors")
    adapters = load_file(checkpoint / "adapter" / "adapter_model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).named_parameters()
    for name, weight in base:
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight.detach()
        if f"{layer}.lora_A.weight" in adapters:
            change = adapters.pop(f"{layer}.lora_B.weight") @ adapters.pop(f"{layer}.lora_A.weight")
            assert change.any()
            expected = change * scaling + expected
        assert torch.equal(weights[name], expected)
    assert not adapters


def test_a_learner_that_cannot_save_trains_on_and_one_that_lost_a_rank_is_restored(
    local_ray, tmp_path, tiny_policy, monkeypatch
):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "failpoints"))
    storage = Storage.at(tmp_path)
    model = shutil.copytree(tiny_policy, tmp_path / "start")
    # transformers loads this and refuses to save it.
    odd = b'{"do_sample": false, "temperature": 0.6, "eos_token_id": 1}'
    (model / "generation_config.json").write_bytes(odd)
    common = {"zero_stage": 2, "ranks": 2, "model": model}
    learner = started(tmp_path, storage, None, **common, epoch=1)
    learner.train(batch(seed=1), 1).result()

    # A checkpoint that one rank cannot write fails on both, and the learner is as before.
    full = fail_at("learner.save", "no-space", step=1, rank=1)
    with pytest.raises(CheckpointError, match=r"step=00000001 .*rank 1: .*No space left"):
        learner.save(storage, checkpoint_folder(1, 1)).result()
    assert full.went_off
    in_the_way = tmp_path / checkpoint_folder(1, 1) / "learner" / DEEPSPEED_TAG
    (in_the_way / "zero_pp_rank_1_mp_rank_00_optim_states.pt").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"rank 1: .*directory"):
        learner.save(storage, checkpoint_folder(1, 1)).result()
    assert storage.list(checkpoint_folder(1, 1)) == []

    # Whatever it is that a rank raises, and wherever.
    for point, rank in (("learner.save", 0), ("learner.save.state", 1)):
        fail_at(point, "error", step=1, rank=rank)
        with pytest.raises(CheckpointError, match=f"rank {rank}: KeyError: 'failpoint'"):
            learner.save(storage, checkpoint_folder(1, 1)).result()
        assert storage.list(checkpoint_folder(1, 1)) == []
        assert 'raise KeyError("failpoint")' in (tmp_path / f"logs/learner-{rank}.log").read_text()

    learner.train(batch(seed=2), 2).result()
    stored = learner.save(storage, checkpoint_folder(1, 2)).result()
    before = learner.logprobs(FIXED)
    saved_model = tmp_path / checkpoint_folder(1, 2) / "model"
    policy = AutoModelForCausalLM.from_pretrained(saved_model)
    assert sum(p.numel() for p in policy.parameters()) > 1e5
    assert (saved_model / "generation_config.json").read_bytes() == odd

    fail_at("learner.train.before", "die", step=3, rank=1)
    # Noticed when it died, and not by timeouts.train, which is longer than this test may take.
    with pytest.raises(LearnerLostError, match=r"learner rank 1 died.*while it was to train"):
        learner.train(batch(seed=3), 3).result()
    learner.kill()

    saved = manifest(stored, 2, 2, 2)
    again = started(tmp_path, storage, saved, **common, epoch=2, more=["timeouts.train=5"])
    assert again.version == 2
    assert again.logprobs(FIXED) == before
    fail_at("learner.train.before", "freeze", step=3, rank=0)
    with pytest.raises(LearnerLostError, match=r"learner rank.*did not train within 5 s"):
        again.train(batch(seed=3), 3).result()
    again.kill()


def test_a_checkpoint_that_cannot_be_written_is_said_at_the_start_and_a_rank_that_fails_is_lost(
    local_ray, failpoints, tmp_path, tiny_policy
):
    settings = config(tmp_path)
    learner = Learner(settings, str(tiny_policy), "gloo", 1, Placement(plan(settings)).learner)
    (tmp_path / "ckpt").write_text("a file, where a folder is to be")
    with pytest.raises(CheckpointError, match=r"trial of a checkpoint.*rank 0: NotADirectoryError"):
        learner.start(Storage.at(tmp_path), None)
    # It could train. After an error that is not one of ours, other ranks would wait in a collective.
    failpoints("learner.train.before", "error", step=1, rank=0)
    with pytest.raises(LearnerLostError, match=r"rank 0 failed, while it was to train: KeyError"):
        learner.train(batch(seed=1), 1).result()
    assert "Traceback" in (tmp_path / "logs/learner-0.log").read_text()
    learner.kill()
