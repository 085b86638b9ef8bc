"""What fits a card, by arithmetic: Qwen2.5's sizes on cards of 80 GB."""

import pytest

from actors.memory import (
    EngineMemory,
    LearnerMemory,
    ModelShape,
    check,
    engine_room,
    engine_share,
    kv_bytes,
    kv_cache_room,
    learner_room,
    sequences_at_a_time,
)
from dps_ray.config import settings
from dps_ray.config.files import CONFIGS
from dps_ray.errors import ResourceError

CARD = 80e9
SMALL = ModelShape(1_543_714_304, 28, 1_536, 8_960, 151_936, kv_heads=2, head_dim=128)  # 1.5B
LARGE = ModelShape(7_615_616_512, 28, 3_584, 18_944, 152_064, kv_heads=4, head_dim=128)  # 7B


def config(*overrides, file="math"):
    return settings.load(CONFIGS / f"{file}.yaml", list(overrides))


def of_rank(shape, config):
    return learner_room(shape, LearnerMemory.of(config), CARD)


def rooms(shape, config):
    """Of a learner rank and of an engine."""
    return of_rank(shape, config), engine_room(shape, EngineMemory.of(config), CARD)


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["1.5B", "7B"])
def test_the_settings_for_math_fit_cards_of_80_gb(shape):
    learner, engine = rooms(shape, config())
    check([learner, engine])
    assert sequences_at_a_time(shape, EngineMemory.of(config()), CARD) >= 32


def test_states_at_7b_are_those_of_the_stage():
    """12 bytes of optimizer a parameter, 4 of gradient, 2 of weights, over 4 ranks from stages 1, 2 and 3 on."""
    states = {}
    for stage in (1, 2, 3):
        parts = of_rank(LARGE, config(f"learner.zero_stage={stage}")).parts
        states[stage] = (
            sum(parts[name] for name in ("weights", "gradients", "optimizer")) / 7.615616512e9
        )
    assert states == pytest.approx({1: 2 + 4 + 3, 2: 2 + 1 + 3, 3: 0.5 + 1 + 3})


def test_a_token_of_the_kv_cache_is_two_vectors_a_layer_and_head():
    assert kv_bytes(SMALL, EngineMemory.of(config())) == 2 * 28 * 2 * 128 * 2


def test_without_recomputation_it_is_said_what_to_set():
    room = of_rank(LARGE, config("learner.gradient_checkpointing=false"))
    with pytest.raises(
        ResourceError, match=r"takes about .* of 80\.0 GB.*gradient_checkpointing=true"
    ):
        check([room])


def test_what_is_proposed_is_not_what_is_set_already():
    alone = ["resources.learner.ranks=1", "learner.max_tokens_per_micro_batch=9216"]
    room = of_rank(LARGE, config(*alone))
    assert room.total > CARD
    assert room.advice == "learner.lora={}, more resources.learner.ranks"


def test_ranks_that_share_sequences_may_have_smaller_micro_batches():
    """Sequences of 9,216 tokens; each of two ranks has half."""
    whole = of_rank(LARGE, config("learner.max_tokens_per_micro_batch=9216"))
    assert "a larger learner.sequence_parallel" in whole.advice
    shared = ["learner.sequence_parallel=2", "learner.max_tokens_per_micro_batch=4608"]
    half = of_rank(LARGE, config(*shared))
    assert half.parts["activations"] == whole.parts["activations"] / 2
    assert half.parts["optimizer"] == whole.parts["optimizer"]
    assert of_rank(LARGE, config(shared[0])).advice.startswith(
        "a smaller learner.max_tokens_per_micro_batch (4608 is the least)"
    )


def test_an_engine_whose_cache_cannot_hold_one_sequence_is_refused():
    _, room = rooms(LARGE, config("rollout.gpu_memory_utilization=0.2"))
    with pytest.raises(ResourceError, match=r"a rollout engine takes .*gpu_memory_utilization"):
        check([room])


def test_a_shared_card_is_shared():
    shared = config(
        "resources.rollout.engines=1",
        "resources.learner.ranks=1",
        "resources.rollout.gpus_per_engine=0.5",
        "resources.learner.gpus_per_rank=0.4",
    )
    learner, engine = rooms(SMALL, shared)
    assert learner.card == pytest.approx(0.4 * CARD)
    assert engine.card == pytest.approx(0.85 * 0.5 * CARD)
    # What is left beside weights and work space.
    cache = kv_cache_room(SMALL, EngineMemory.of(shared), CARD)
    assert cache == pytest.approx(
        engine.card - engine.parts["weights"] - engine.parts["work space"]
    )


def test_by_turns_each_has_nearly_all_of_a_card():
    """7B on 4 cards, with sequences of 9,216 tokens: by turns it fits, side by side it does not."""
    halves = [
        "resources.rollout={engines: 4, gpus_per_engine: 0.5}",
        "resources.learner={ranks: 4, gpus_per_rank: 0.5}",
    ]
    for turns, fits in ((False, False), (True, True)):
        settings_ = config(*halves, f"resources.colocate={turns}")
        learner, engine = rooms(LARGE, settings_)
        assert (learner.total <= learner.card and engine.total <= engine.card) == fits
    # The learner's weights stay, and vLLM may not count on the memory that they take.
    assert engine_share(LARGE, EngineMemory.of(settings_), CARD) == pytest.approx(
        0.85 - engine.parts["the learner's weights"] / CARD
    )


def of_7b(*overrides: str):
    """A rank for which nothing is set but this."""
    gpus = ["resources.rollout.gpus_per_engine=1", "resources.learner.gpus_per_rank=1"]
    return of_rank(LARGE, settings.load(None, [*gpus, *overrides]))


def test_with_adapters_7b_fits_a_card_with_half_of_it_to_spare():
    assert of_7b().total > CARD
    assert of_7b("learner.lora={}").total < CARD / 2


def test_adapters_of_7b_take_by_rank_what_peft_counts():
    # 40,370,176 parameters at rank 16.
    parts = of_7b("learner.lora={}").parts
    assert parts["adapters"] == 2 * 40_370_176
    assert parts["gradients"] + parts["optimizer"] == (4 + 12) * 40_370_176
    assert of_7b("learner.lora.rank=32").parts["adapters"] == 2 * parts["adapters"]


def test_a_reference_takes_nothing_beside_adapters():
    small = "learner.max_tokens_per_micro_batch=2048", "rollout.max_response_length=1024"
    alone = of_7b("learner.lora={}", *small)
    assert of_7b("objective.kl_coef=0.1", *small).parts["reference policy"] > 5e9
    assert of_7b("learner.lora={}", "objective.kl_coef=0.1", *small).total == alone.total


def test_on_a_shared_card_merged_weights_are_counted():
    shared = "resources.rollout.gpus_per_engine=0.5", "resources.learner.gpus_per_rank=0.4"
    assert "merged weights" not in of_7b("learner.lora={}").parts
    assert of_7b("learner.lora={}", *shared).parts["merged weights"] > 1e9


def test_a_critic_of_the_policys_size_doubles_the_states():
    parts = of_rank(LARGE._replace(critic=LARGE.parameters), config("objective.name=ppo")).parts
    assert parts["the critic's weights"] == parts["weights"]
    assert parts["the critic's states"] == parts["gradients"] + parts["optimizer"]
    alone = of_rank(LARGE, config()).parts
    assert {name: parts[name] for name in alone if "critic" not in name} == {
        name: size for name, size in alone.items() if "critic" not in name
    }


def test_by_turns_policy_and_critic_have_their_states_on_the_card_one_after_the_other():
    by_turns = config(
        "objective.name=ppo",
        "resources.colocate=true",
        "resources.rollout={engines: 4, gpus_per_engine: 0.5}",
        "resources.learner={ranks: 4, gpus_per_rank: 0.5}",
    )
    shape = SMALL._replace(critic=SMALL.parameters)
    parts = of_rank(shape, by_turns).parts
    assert parts["the critic's states"] == 0
    engine = engine_room(shape, EngineMemory.of(by_turns), CARD)
    stays = engine.parts["the learner's weights"]
    without = engine_room(SMALL, EngineMemory.of(by_turns), CARD).parts["the learner's weights"]
    assert stays - without == parts["weights"]


def test_a_rank_that_has_no_room_for_its_critic_is_told_what_helps():
    room = of_rank(LARGE._replace(critic=LARGE.parameters), config("objective.name=ppo"))
    with pytest.raises(ResourceError, match=r"critic's states .*smaller model as learner.critic"):
        check([room])
