"""State that survives the death of any process: files, epochs, manifests, the observation log, selector snapshots.

    log/e0007/step=00000042.arrow                                observations, durable before they are applied
    ckpt/e0007/step=00000040/beliefs-00003-of-00016.arrow, ...   the files of a checkpoint
    manifests/e0007.00000040.json                                the commit, written last
    epochs/e0007                                                 which driver owns the run

This package does not depend on Ray, vLLM or DeepSpeed.
"""

from dps_ray.durable.epochs import check_owner, claim_epoch
from dps_ray.durable.files import Storage, Stored
from dps_ray.durable.manifest import (
    DEEPSPEED_TAG,
    Manifest,
    Segment,
    checkpoint_folder,
    commit,
    load,
    manifests,
    newest_valid,
    verify,
)
from dps_ray.durable.observations import ObservationLog, committed
from dps_ray.durable.retention import best, prune
from dps_ray.durable.snapshots import read_shard, read_snapshot, reshard, shard_file, write_snapshot

__all__ = [
    "DEEPSPEED_TAG",
    "Manifest",
    "ObservationLog",
    "Segment",
    "Storage",
    "Stored",
    "best",
    "check_owner",
    "checkpoint_folder",
    "claim_epoch",
    "commit",
    "committed",
    "load",
    "manifests",
    "newest_valid",
    "prune",
    "read_shard",
    "read_snapshot",
    "reshard",
    "shard_file",
    "verify",
    "write_snapshot",
]
