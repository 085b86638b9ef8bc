"""prime-rl's own curriculum, train source and checkpoints, with the patch that lets the sampler in; rollouts are simulated."""

import collections
import uuid
from types import SimpleNamespace

import pytest

pytest.importorskip(
    "prime_rl.orchestrator.curriculum", reason="prime-rl is not installed: make test-integrations"
)

import verifiers.v1 as vf
from prime_rl.configs.orchestrator import CheckpointConfig, CurriculumConfig
from prime_rl.orchestrator.ckpt import CheckpointManager
from prime_rl.orchestrator.curriculum import TaskSampler
from prime_rl.orchestrator.train_source import TrainSource
from prime_rl.orchestrator.types import Progress

from dps_ray.errors import ConfigError, SamplerError
from dps_ray.integrations.prime_rl import DPSSampler

pytestmark = pytest.mark.slow

TASKS, ROLLOUTS, BATCH = 240, 4, 8
LEVELS = ["easy", "fitting", "hard"]


class Data(vf.TaskData):
    level: str


def task(index):
    return vf.Task(Data(idx=index, prompt=f"problem {index}", level=LEVELS[index % 3]))


TASKSET = [task(index) for index in range(TASKS)]


def episode(given, reward, ok=True, trainable=True):
    recorded = vf.TraceTask(
        type=type(given).__name__, data=given.data, key=given.key, hash=given.hash
    )
    trace = vf.Trace(
        task=recorded,
        agent=vf.AgentInfo(config=vf.AgentConfig(), trainable=trainable),
        nodes=[],
        rewards={"reward": vf.Reward(score=reward)},
        ok=ok,
    )
    return vf.Episode(
        env=vf.EnvInfo(id="problems", name="problems"),
        task=recorded,
        group=vf.GroupInfo(id=str(uuid.uuid4())),
        traces=[trace],
    )


def group_of(given):
    """A group; every other rollout of a fitting task is right."""
    level = given.data.level
    return [
        episode(given, float(level == "easy" or (level == "fitting" and rollout % 2 == 0)))
        for rollout in range(ROLLOUTS)
    ]


def source_of(tasks=TASKSET, **kwargs):
    """prime-rl's train source, from a configuration as a user writes it."""
    sampler = {
        "type": "custom",
        "import_path": "dps_ray.integrations.prime_rl.DPSSampler",
        "kwargs": {"group_size": ROLLOUTS, "batch": BATCH, "kinds": "level", **kwargs},
    }
    config = SimpleNamespace(ratio=1.0, curriculum=CurriculumConfig(sampler=sampler))
    env = SimpleNamespace(name="problems", tasks=iter(tasks), num_tasks=len(tasks), config=config)
    return TrainSource([env])


def steps(source, count, behind=BATCH):
    """Gives tasks and takes in groups, with as many in flight as said; returns the keys given."""
    given, flying = [], collections.deque()
    for _ in range(count * BATCH):
        flying.append(source.next_task(step=1).task)
        given.append(flying[-1].key)
        if len(flying) > behind:
            source.on_result(group_of(flying.popleft()))
    for late in reversed(flying):
        source.on_result(group_of(late))
    return given


def metric(source, name):
    return source.curricula["problems"].sampler.metrics()[f"dps/{name}"]


def test_tasks_are_those_that_are_partly_solved():
    source = source_of()
    given = steps(source, 8)
    assert len(set(given)) == len(given)
    assert metric(source, "steps") == 8
    assert metric(source, "in_flight") == 0
    assert metric(source, "effective_ratio_mean") > 0.6
    assert "curriculum/problems/sampler/dps/effective_ratio" in source.metrics()


def test_a_resumed_run_chooses_as_the_undisturbed_one(tmp_path):
    whole = source_of()
    steps(whole, 3)
    CheckpointManager(tmp_path, CheckpointConfig()).save(Progress(), whole, step=3)
    expected = steps(whole, 3)
    resumed = source_of()
    CheckpointManager(tmp_path, CheckpointConfig()).load(Progress(), resumed, step=3)
    assert steps(resumed, 3) == expected


def test_tasks_that_came_or_went_are_known_by_their_keys():
    before = source_of()
    steps(before, 3)
    after = source_of([*reversed(TASKSET[30:]), *map(task, range(TASKS, TASKS + 30))])
    after.load_state_dict(before.state_dict())
    taught = {given.key for given in TASKSET[:30]}
    assert taught.isdisjoint(steps(after, 3))
    assert 0 < metric(after, "distinct") < 6 * BATCH


def test_groups_that_were_dropped_as_stale_are_free_in_time():
    source = source_of(lost_after=3 * BATCH)
    for _ in range(2 * BATCH):
        source.next_task(step=1)
    steps(source, 6, behind=2)
    assert metric(source, "released") == 2 * BATCH
    assert metric(source, "in_flight") == 0


def test_rollouts_with_errors_and_of_agents_that_do_not_train_teach_nothing():
    sampler = DPSSampler(TASKSET, ROLLOUTS, batch=1)
    first, second = next(sampler), next(sampler)
    sampler.observe([episode(first, 1.0), episode(first, 0.0, ok=False)])
    assert sampler.metrics()["dps/effective_ratio"] == 0
    sampler.observe([episode(second, 1.0, ok=False), episode(second, 0.0, trainable=False)])
    assert sampler.metrics()["dps/failed"] == 1
    assert sampler.metrics()["dps/in_flight"] == 0


def test_a_stream_without_end_is_refused():
    with pytest.raises(ConfigError, match="standard"):
        DPSSampler(iter(TASKSET))


def test_two_tasks_with_the_same_key_are_refused():
    with pytest.raises(SamplerError, match="occurs twice"):
        DPSSampler([TASKSET[0], TASKSET[0]])


@pytest.mark.parametrize(
    ("option", "said"), [({"kinds": "topic"}, "topic"), ({"metod": "dps"}, "metod")]
)
def test_options_that_cannot_be_used_are_named(option, said):
    with pytest.raises(ConfigError, match=said):
        DPSSampler(TASKSET, **option)


def test_the_sampler_is_one_of_prime_rl():
    assert issubclass(DPSSampler, TaskSampler)
