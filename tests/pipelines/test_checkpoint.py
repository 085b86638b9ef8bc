"""Which checkpoint a run goes back to."""

from dps_ray.config import settings
from dps_ray.durable import Manifest, Segment, Storage, claim_epoch, commit
from pipelines.training.checkpoint import Checkpoints


def checkpoint(storage, epoch, step):
    manifest = Manifest(
        epoch=epoch,
        step=step,
        files=(),
        lineage=(Segment(epoch, 0),),
        dataset_fingerprint="",
        config_hash="",
        weight_version=step,
        belief_shards=1,
        learner_ranks=1,
        zero_stage=1,
        deepspeed_tag="",
    )
    commit(storage, manifest)
    return manifest


def test_a_run_that_resumed_an_earlier_checkpoint_goes_back_to_it_and_to_no_later_one(tmp_path):
    storage = Storage.at(tmp_path)
    claim_epoch(storage)
    earlier, later = (checkpoint(storage, 1, step) for step in (10, 20))
    for base in (earlier, later):
        config = settings.load(None, [f"folder={tmp_path}", f"resume={base.name}"])
        checkpoints = Checkpoints(
            config, storage, base, fingerprint="", deepspeed_tag="", tell=lambda message: None
        )
        for _ in range(2):  # as when a learner dies while it starts, and its successor too
            assert checkpoints.go_back() == base
