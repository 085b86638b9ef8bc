"""An actor is handed its own settings, whether training or an evaluation starts it."""

from dataclasses import fields

import pytest

from actors.engine_setup import EngineSetup
from actors.learner_setup import LearnerSetup
from actors.verifier import VerifierSetup
from dps_ray.config import Config, settings
from dps_ray.config.evaluation import EvaluationConfig

SHARED = [
    "seed=7",
    "folder=runs/x",
    "data.max_prompt_length=40",
    "data.reward=rewards.py:score",
    "model.dtype=float32",
    "rollout.max_num_seqs=12",
    "rollout.gpu_memory_utilization=0.5",
    "verifier.seconds=3",
    "timeouts.score=9",
]
RUN = settings.load(None, [*SHARED, "rollout.max_response_length=60"])
EVALUATION = settings.load_as(
    EvaluationConfig,
    None,
    [*SHARED, "max_response_length=60", "model.path=policy", "data.test=test.parquet"],
)


def test_an_engine_is_set_up_alike_in_a_run_and_in_an_evaluation():
    setup = EngineSetup.of(RUN, "policy", "gloo")
    assert setup == EngineSetup.of(EVALUATION, "policy", "gloo")
    assert (setup.max_length, setup.slots, setup.workers, setup.sleeps) == (100, 12, 1, False)


def test_a_verifier_is_set_up_alike_in_a_run_and_in_an_evaluation():
    setup = VerifierSetup.of(RUN)
    assert setup == VerifierSetup.of(EVALUATION)
    assert (setup.limits.seconds, setup.to_score) == (3, 9)


@pytest.mark.parametrize(
    ("gpus", "slots", "workers"), [(0.0, 256, 1), (0.5, 1024, 1), (1.0, 1024, 1), (2.0, 1024, 2)]
)
def test_an_engine_decodes_as_many_responses_as_vllm_does_by_default(gpus, slots, workers):
    overrides = [f"resources.rollout.gpus_per_engine={gpus}"]
    if gpus:
        overrides.append(f"resources.learner.gpus_per_rank={min(gpus, 1.0)}")
    setup = EngineSetup.of(settings.load(None, overrides), "policy", "nccl")
    assert (setup.slots, setup.workers) == (slots, workers)


def test_an_engine_sleeps_only_where_it_has_a_card_by_turns_with_a_learner_rank():
    halves = [
        "resources.rollout={engines: 1, gpus_per_engine: 0.5}",
        "resources.learner={ranks: 1, gpus_per_rank: 0.5}",
    ]
    for colocate in (False, True):
        config = settings.load(None, [*halves, f"resources.colocate={colocate}"])
        setup = EngineSetup.of(config, "policy", "ipc")
        assert setup.sleeps == colocate
        assert (setup.memory.learner is not None) == colocate
        assert LearnerSetup.of(config, "policy", "ipc").card.by_turns == colocate


@pytest.mark.parametrize(
    "setup",
    [
        EngineSetup.of(RUN, "policy", "gloo"),
        LearnerSetup.of(RUN, "policy", "gloo"),
        VerifierSetup.of(RUN),
    ],
)
def test_no_actor_is_handed_the_whole_configuration(setup):
    assert not any(isinstance(getattr(setup, each.name), Config) for each in fields(setup))
