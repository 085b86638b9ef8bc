"""A run of PPO with its critic, and the same run in which a rank of the learner dies."""

import pytest
from transformers import AutoModelForCausalLM

from pipelines.monitoring.run_log import read_metrics
from pipelines.training.checkpoint import model_folder
from tests.pipelines.test_metrics import not_in_the_table
from tests.runs import assert_same_end, newest, run

pytestmark = pytest.mark.slow

PPO = (
    "objective.name=ppo",
    "objective.kl_coef=0.01",
    "learner.critic.lr=1e-3",
    "learner.critic.warmup_steps=1",
    "learner.zero_stage=2",
    "resources.learner.ranks=2",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, able_policy, chains):
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    assert run(folder, able_policy, chains, *PPO) == 0
    return folder


def test_all_groups_train_a_policy_that_is_served_without_the_critic(whole, able_policy):
    steps = [m for m in read_metrics(whole) if "training/step" in m]
    assert [m["batch/useful_groups"] for m in steps] == [12, 12, 12]
    assert min(m["tasksample/partial_solve_ratio"] for m in steps) < 1
    assert not_in_the_table(whole) == set()
    # In the first step the policy waits for the critic.
    assert ["actor/pg_loss" in m for m in steps] == [False, True, True]
    assert all("critic/vf_loss" in m for m in steps)
    assert steps[0]["critic/vf_explained_var"] == 0.0
    assert steps[1]["critic/vf_explained_var"] != 0.0
    storage, manifest = newest(whole)
    names = {
        name for name, _ in AutoModelForCausalLM.from_pretrained(able_policy).named_parameters()
    }
    served = AutoModelForCausalLM.from_pretrained(model_folder(storage, manifest))
    assert {name for name, _ in served.named_parameters()} == names
    assert any("/critic/" in file.path for file in manifest.files)


def test_a_rank_that_dies_as_it_trains_the_critic_leaves_no_trace(
    whole, tmp_path, failpoints, able_policy, chains
):
    # The policy has made its optimizer steps by then.
    died = failpoints("learner.critic.loss", step=3, rank=1)
    folder = tmp_path / "run"
    assert run(folder, able_policy, chains, *PPO) == 0
    assert died.went_off
    assert read_metrics(folder)[-1]["recovery/restarts/learner"] == 1
    assert_same_end(folder, whole)
