"""Real runs whose responses are episodes over several turns."""

from pathlib import Path

import numpy as np
import pytest

from dps_ray.durable import committed
from pipelines.monitoring.metrics import describe
from pipelines.monitoring.run_log import read_metrics
from tests.runs import assert_same_end, newest, run

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[1] / "dps_ray" / "turn_environments.py"
TURNS = (
    f"environment.path={FILE}:Chains",
    "environment.max_turns=3",
    "rollout.max_response_length=150",
)


@pytest.fixture(scope="module")
def over_turns(tmp_path_factory, able_policy, chains):
    """The folder of a run with one of everything, to which nothing happened."""
    folder = tmp_path_factory.mktemp("turns") / "one"
    assert run(folder, able_policy, chains, *TURNS) == 0
    return folder


def steps(folder):
    return [m for m in read_metrics(folder) if "critic/rewards/mean" in m]


def test_episodes_have_several_turns_and_only_what_the_policy_wrote_is_charged(over_turns):
    for found in steps(over_turns):
        assert 1 < found["environment/turns_mean"] <= 3
        assert found["environment/turns_max"] == 3
        assert 0 < found["environment/written_share"] < 1
        assert found["response_length/max"] <= 150
        assert found["environment/seconds_mean"] > 0
        assert found["rollouts/skipped"] == 0
    written, tokens = steps(over_turns)[0]["environment/written_share"], 12 * 4
    mean = steps(over_turns)[0]["response_length/mean"]
    assert steps(over_turns)[0]["perf/total_tokens"] == pytest.approx(written * mean * tokens)


def test_the_learner_and_the_engines_agree_on_what_the_policy_wrote(over_turns):
    assert all(m["rollout/logprob_diff_mean"] < 1e-4 for m in steps(over_turns))
    assert any(m["actor/grad_norm"] > 0 for m in steps(over_turns))


def test_an_evaluation_plays_the_same_episodes(over_turns):
    (first, *_) = [m for m in read_metrics(over_turns) if "val-core/all/acc/mean@4" in m]
    assert first["val-aux/failed"] == 0
    assert first["val-core/all/acc/mean@4"] > 0


def test_the_table_has_a_row_for_every_metric_of_a_run_over_turns(over_turns):
    written = {name for record in read_metrics(over_turns) for name in record}
    assert [name for name in written - {"step", "time"} if describe(name) is None] == []


def test_environments_and_engines_lost_in_the_middle_of_episodes_change_nothing(
    over_turns, tmp_path, able_policy, chains, failpoints
):
    lost = [
        failpoints("environment.play", responses=1, environment=1),
        failpoints("environment.play", responses=2, environment=0),
        failpoints("engine.prompt", turn=1),
    ]
    two = ("resources.rollout.engines=2", "resources.verifiers.workers=2")
    assert run(tmp_path / "run", able_policy, chains, *TURNS, *two) == 0
    assert all(each.went_off for each in lost)
    ours, others = (dict(committed(*newest(f))) for f in (over_turns, tmp_path / "run"))
    for step, found in ours.items():
        for mine, other in zip(found, others[step], strict=True):
            np.testing.assert_array_equal(mine, other)
    assert_same_end(over_turns, tmp_path / "run")


def test_an_environment_that_hangs_costs_its_groups_and_is_no_wrong_answer(
    tmp_path, able_policy, chains
):
    hangs = (
        *TURNS,
        f"environment.path={FILE}:HangsOn",
        "environment.kwargs={every: 4}",
        "environment.turn_timeout=1",
        "loop.steps=1",
        "eval.max_prompts=1",
    )
    assert run(tmp_path, able_policy, chains, *hangs) == 0
    (found,) = steps(tmp_path)
    assert found["environment/failed_groups"] > 0
    assert found["rollouts/skipped"] == found["environment/failed_groups"]
    (observed,) = dict(committed(*newest(tmp_path))).values()
    assert len(observed.ids) == 12 - found["rollouts/skipped"]
    assert (observed.ids % 4 != 0).all()
