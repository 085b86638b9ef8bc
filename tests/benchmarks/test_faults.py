"""The benchmark of random kills: that it runs, and that its audit finds what it looks for."""

import random
import time

import numpy as np
import pytest
from rich.console import Console

from actors.belief_shard import parts
from benchmarks.faults import KINDS, config_of, main, observations_lost, survive
from dps_ray.beliefs.states import observed
from dps_ray.durable import (
    Manifest,
    ObservationLog,
    Segment,
    Storage,
    checkpoint_folder,
    claim_epoch,
    shard_file,
    write_snapshot,
)
from dps_ray.hashing import shards
from pipelines.monitoring.run_log import read_events
from pipelines.monitoring.view import LineView
from pipelines.training.inputs import prepare
from tests.runs import newest

STEPS, SIZE = 4, 16


@pytest.fixture(params=["dps", "dps_pooled"])
def audited(request, tmp_path, tiny_policy, chains):
    """Audits a checkpoint whose shards applied these logged steps, in this order: `audited([1, 2], [1, 2])`."""
    overrides = [
        f"method={request.param}",
        f"model.path={tiny_policy}",
        f"data.train={chains[0]}",
    ]
    config, console, storage = (
        config_of(tmp_path, overrides),
        Console(quiet=True),
        Storage.at(tmp_path),
    )
    inputs = prepare(config, LineView(STEPS, console, time.monotonic))
    ids, epoch = inputs.pool.ids, claim_epoch(storage)
    log = ObservationLog(storage, epoch)
    for step in range(1, STEPS + 1):
        rng = np.random.default_rng(step)
        rows = rng.choice(len(ids), SIZE, replace=False)
        right = rng.integers(9, size=SIZE)
        seen = observed(ids[rows], right, np.full(SIZE, 8))
        log.append(step, inputs.population.describe(seen))

    def audit(*applied):
        files = []
        held = list(parts(config, inputs.population, len(applied)))
        for index, steps in enumerate(applied):
            selector = held[index].selector()
            for step in steps:
                whole = log.read(step)
                part = whole.take(shards(whole.ids, len(applied)) == index)
                selector.observe(part, whole)
            path = f"{checkpoint_folder(epoch, STEPS)}/{shard_file(index, len(applied))}"
            files.append(write_snapshot(storage, path, selector.snapshot()))
        manifest = Manifest(
            epoch=epoch,
            step=STEPS,
            files=tuple(files),
            lineage=(Segment(epoch, 0),),
            dataset_fingerprint=inputs.pool.table.fingerprint,
            config_hash="",
            weight_version=STEPS,
            belief_shards=len(applied),
            learner_ranks=1,
            zero_stage=1,
            deepspeed_tag="",
        )
        return observations_lost(config, storage, manifest, console)

    audit.in_shard = lambda index, step: np.count_nonzero(shards(log.read(step).ids, 2) == index)
    return audit


def test_the_audit_finds_nothing_where_every_shard_applied_every_step_once(audited):
    assert audited([1, 2, 3, 4], [1, 2, 3, 4]) == 0


def test_the_audit_counts_what_a_shard_lost(audited):
    lost = audited.in_shard(1, step=3)
    assert 0 < lost < SIZE
    assert audited([1, 2, 3, 4], [1, 2, 4]) == lost


def test_the_audit_counts_what_was_applied_twice(audited):
    assert audited([1, 2, 2, 3, 4], [1, 2, 2, 3, 4]) == SIZE


def test_the_audit_finds_steps_in_another_order(audited):
    assert audited([1, 2, 3, 4], [1, 3, 2, 4]) > 0


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("folder=runs/mine", "leave this setting out"),
        ("methd=dps", "did you mean method?"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_starts(override, says, capsys):
    assert main(["--minutes=1", override]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)  # The run is started twice, on a machine that may be busy.
def test_a_run_loses_nothing_when_one_process_of_each_kind_is_killed(tmp_path, able_policy, chains):
    """With the method that the configuration of the built-in task names."""
    outcome = survive(
        tmp_path / "run",
        KINDS,
        [
            f"model.path={able_policy}",
            f"data.train={chains[0]}",
            "resources.rollout.engines=1",
            "resources.verifiers.workers=1",
            "rollout.threads=1",
            "learner.threads=1",
        ],
        rng=random.Random(0),
        console=Console(),
    )
    assert outcome.kinds == dict.fromkeys(KINDS, 1)
    assert (outcome.lost, outcome.hangs, outcome.refused) == (0, 0, [])
    assert outcome.exit_code == 0
    # Each was noticed and replaced; the driver's own death is told by its second epoch.
    assert {event["kind"] for event in read_events(tmp_path / "run")} >= {
        "belief_shard",
        "verifier",
        "rollout_engine",
        "learner",
    }
    assert newest(tmp_path / "run")[1].epoch >= 3
