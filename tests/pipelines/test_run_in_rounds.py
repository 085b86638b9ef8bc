"""Real runs whose groups come in rounds."""

import numpy as np
import pytest

from dps_ray import PARTIAL
from dps_ray.durable import committed, reshard
from dps_ray.prompts.dataset import PromptTable
from dps_ray.selection.pooled import PooledStore, number_within
from pipelines.monitoring.run_log import read_metrics
from tests.faults.beliefs_run import beliefs_in
from tests.runs import assert_same_end, newest, run

pytestmark = pytest.mark.slow

POOLED = ("method=dps_pooled", "selector.temperature=0.5")
ROUNDS = (*POOLED, "rollout.rounds=[2,1,1]")


@pytest.fixture(scope="module")
def in_rounds(tmp_path_factory, able_policy, chains):
    """The folder of a run with one of everything."""
    folder = tmp_path_factory.mktemp("rounds") / "one"
    assert run(folder, able_policy, chains, *ROUNDS) == 0
    return folder


def observations(folder):
    """What a run observed, by step."""
    return dict(committed(*newest(folder)))


def assert_beliefs_equal_a_replay(folder, chains):
    """The beliefs in the run's checkpoint are those of one new store that is told what the run observed."""
    table = PromptTable.open(chains[0], None)
    clusters = number_within(table.ids, table.labels("extra_info.level").labels, 0)
    store = PooledStore(table.ids, clusters, observation="counts", group_size=4, temperature=0.5)
    for observation in observations(folder).values():
        store.observe(observation)
    (expected,), found = reshard([store.snapshot()], 1), beliefs_in(*newest(folder))
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_groups_stop_once_they_are_mixed_and_only_what_was_generated_is_charged(in_rounds):
    seen = observations(in_rounds)
    sizes: set[int] = set()
    for found in seen.values():
        mixed = found.states == PARTIAL
        assert (found.responses[~mixed] == 4).all()
        # A mixed group was alike before its last round, which has one response unless it is the first.
        rare = np.minimum(found.successes, found.responses - found.successes)
        assert (rare[mixed] == 1).all()
        sizes |= set(found.responses.tolist())
    # Which of them a step has depends on the processor, whose arithmetic the start policy was made with.
    assert {2, 4} <= sizes <= {2, 3, 4}
    steps = [m for m in read_metrics(in_rounds) if "critic/rewards/mean" in m]
    charged = np.diff([0, *(m["perf/total_rollouts"] for m in steps)])
    assert charged.tolist() == [found.responses.sum() for found in seen.values()]
    assert all(
        m["batch/useful_groups"] == (found.states == PARTIAL).sum()
        for m, found in zip(steps, seen.values(), strict=True)
    )


def test_the_first_responses_are_those_of_a_run_whose_groups_are_asked_for_at_once(
    in_rounds, tmp_path, able_policy, chains
):
    assert run(tmp_path, able_policy, chains, *POOLED, "loop.steps=1") == 0
    (whole,), ours = observations(tmp_path).values(), observations(in_rounds)[1]
    np.testing.assert_array_equal(ours.ids, whole.ids)
    # The start policy generated both.
    full = ours.responses == 4
    np.testing.assert_array_equal(ours.successes[full], whole.successes[full])
    stopped = ~full
    assert (whole.states[stopped] == PARTIAL).all()


def test_engines_and_verifiers_lost_between_rounds_and_the_number_of_shards_change_nothing(
    in_rounds, tmp_path, able_policy, chains, failpoints
):
    lost = [
        failpoints("engine.prompt", first=2),
        failpoints("engine.prompt", first=3),
        failpoints("verifier.score", responses=1),
    ]
    assert (
        run(
            tmp_path / "run",
            able_policy,
            chains,
            *ROUNDS,
            "resources.rollout.engines=2",
            "resources.verifiers.workers=2",
            "resources.beliefs.shards=3",
        )
        == 0
    )
    assert all(each.went_off for each in lost)
    for step, found in observations(in_rounds).items():
        for mine, other in zip(found, observations(tmp_path / "run")[step], strict=True):
            np.testing.assert_array_equal(mine, other)
    assert_same_end(in_rounds, tmp_path / "run")
    assert_beliefs_equal_a_replay(in_rounds, chains)
    assert_beliefs_equal_a_replay(tmp_path / "run", chains)


def test_dynamic_sampling_with_adaptive_rounds_finds_as_many_mixed_groups_as_it_trains_on(
    tmp_path, able_policy, chains
):
    sampling = ("method=uniform", "loop.filter_groups=true", "loop.max_gen_batches=6")
    rounds = ("rollout.rounds=adaptive", "rollout.stop=both", "loop.steps=2")
    assert run(tmp_path, able_policy, chains, *sampling, *rounds) == 0
    steps = [m for m in read_metrics(tmp_path) if "critic/rewards/mean" in m]
    for m, found in zip(steps, observations(tmp_path).values(), strict=True):
        partial = (found.states == PARTIAL).sum()
        assert 0 < partial <= 12
        assert m["batch/useful_groups"] == partial
        assert partial == 12 or len(found.ids) == 72
        assert found.responses.min() >= 2
        assert found.responses.max() <= 4
