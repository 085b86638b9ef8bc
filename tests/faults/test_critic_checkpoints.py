"""A learner with a critic goes on from its checkpoint, with another number of ranks too, as if it had never stopped."""

import pytest

from actors.learner import Learner
from cluster.placement import Placement, plan
from dps_ray.durable import Storage, checkpoint_folder, verify
from tests.faults.learner_alone import batch_with_scores, config
from tests.faults.test_learner_checkpoints import in_object_store, manifest

pytestmark = pytest.mark.slow

FIXED = batch_with_scores(seed=99)
PPO = ("objective.name=ppo", "learner.critic.lr=3e-3", "learner.critic.lam=0.9")


def started(folder, storage, saved, model, *, epoch, ranks, zero_stage):
    settings = config(folder, zero_stage, ranks, *PPO)
    learner = Learner(settings, str(model), "gloo", epoch, Placement(plan(settings)).learner)
    learner.start(storage, saved)
    return learner


@pytest.mark.parametrize(("zero_stage", "object_store"), [(2, False), (3, True)])
def test_one_rank_then_two_then_one_train_as_one_rank_does(
    local_ray, tmp_path, tiny_policy, zero_stage, object_store
):
    storage = in_object_store(tmp_path / "store") if object_store else Storage.at(tmp_path)
    options = {"model": tiny_policy, "zero_stage": zero_stage}
    stays = started(tmp_path / "stays", storage, None, epoch=9, ranks=1, **options)
    expected = [stays.train(batch_with_scores(s), s).result().metrics for s in (1, 2, 3)]
    logprobs = stays.logprobs(FIXED)
    stays.kill()

    saved = None
    for step, ranks in enumerate((1, 2, 1), 1):
        learner = started(tmp_path, storage, saved, epoch=step, ranks=ranks, **options)
        found = learner.train(batch_with_scores(step), step).result().metrics
        assert found == pytest.approx(expected[step - 1], rel=1e-3, abs=1e-5)
        if step == 3:
            assert learner.logprobs(FIXED) == pytest.approx(logprobs, abs=1e-5)
        else:
            folder = checkpoint_folder(step, step)
            stored = learner.save(storage, folder).result()
            saved = manifest(stored, step, ranks, zero_stage, epoch=step)
            verify(storage, saved)
            assert saved.under(f"{folder}/critic")
            assert {file.path for file in stored} == set(storage.list(folder))
        learner.kill()
