"""A whole run of a vision-language policy: images from Parquet to rollout, learner and checkpoint."""

from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from pipelines.monitoring.run_log import read_metrics
from pipelines.training.checkpoint import model_folder
from tests.runs import TWO_OF_EVERYTHING, newest, run
from tests.squares import write_squares

pytestmark = pytest.mark.slow


def test_a_vision_language_policy_is_rolled_out_trained_and_kept(tmp_path, vision_policy):
    squares = (
        write_squares(tmp_path / "train.parquet", 30),
        write_squares(tmp_path / "test.parquet", 6, first=30),
    )
    reward = Path(__file__).parents[1] / "squares.py"
    folder = tmp_path / "run"
    assert (
        run(
            folder,
            vision_policy,
            squares,
            *TWO_OF_EVERYTHING,
            f"data.reward={reward}:compute_score",
            "learner.zero_stage=3",
            "learner.gradient_checkpointing=true",
            "model.dtype=float32",
            "data.max_prompt_length=128",
            "rollout.max_response_length=16",
            "loop.batch_size=6",
        )
        == 0
    )

    steps = [m for m in read_metrics(folder) if "critic/rewards/mean" in m]
    assert [m["step"] for m in steps] == [1, 2, 3]
    trained = [m for m in steps if "actor/grad_norm" in m]
    assert len(trained) >= 2
    for m in trained:
        # Engine and learner saw the same images, at first and with published weights.
        assert m["rollout/logprob_diff_mean"] < 1e-5
    assert trained[0]["actor/kl_loss"] >= 0
    assert all(m["actor/kl_loss"] > 0 for m in trained[1:])

    path = model_folder(*newest(folder))
    ends = []
    for where in (vision_policy, path):
        model, loading = AutoModelForImageTextToText.from_pretrained(
            where, dtype=torch.float32, output_loading_info=True
        )
        assert not loading["missing_keys"]
        assert not loading["unexpected_keys"]
        ends.append(dict(model.named_parameters()))
    moved = {name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])}
    assert any("visual.patch_embed" in name for name in moved)
    assert any("language_model" in name for name in moved)
    assert AutoTokenizer.from_pretrained(path).chat_template
    processors = [
        AutoImageProcessor.from_pretrained(p, backend="pil") for p in (vision_policy, path)
    ]
    assert processors[0].to_dict() == processors[1].to_dict()
