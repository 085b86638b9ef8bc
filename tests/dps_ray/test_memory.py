"""What a learner with adapters takes of a card, by arithmetic."""

from dps_ray import settings
from dps_ray.memory import ModelShape, learner_room

CARD = 80e9
QWEN_7B = ModelShape(7_615_616_512, 28, 3584, 18944, 152_064, 4, 128)


def room(*overrides: str):
    gpus = ["resources.rollout.gpus_per_engine=1", "resources.learner.gpus_per_rank=1"]
    return learner_room(QWEN_7B, settings.load(None, [*gpus, *overrides]), CARD)


def test_with_adapters_7b_fits_a_card_with_half_of_it_to_spare():
    assert room().total > CARD
    assert room("learner.lora={}").total < CARD / 2


def test_adapters_of_7b_take_by_rank_what_peft_counts():
    # 40,370,176 parameters at rank 16.
    parts = room("learner.lora={}").parts
    assert parts["adapters"] == 2 * 40_370_176
    assert parts["gradients"] + parts["optimizer"] == (4 + 12) * 40_370_176
    assert room("learner.lora.rank=32").parts["adapters"] == 2 * parts["adapters"]


def test_a_reference_takes_nothing_beside_adapters():
    small = "learner.max_tokens_per_micro_batch=2048", "rollout.max_response_length=1024"
    alone = room("learner.lora={}", *small)
    assert room("objective.kl_coef=0.1", *small).parts["reference policy"] > 5e9
    assert room("learner.lora={}", "objective.kl_coef=0.1", *small).total == alone.total


def test_on_a_shared_card_merged_weights_are_counted():
    shared = "resources.rollout.gpus_per_engine=0.5", "resources.learner.gpus_per_rank=0.4"
    assert "merged weights" not in room("learner.lora={}").parts
    assert room("learner.lora={}", *shared).parts["merged weights"] > 1e9
