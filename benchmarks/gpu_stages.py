"""The stages of `benchmarks/gpu.py`. Each gives a dictionary of numbers."""

import hashlib
import json
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peer import task_for_trl, trl_command
from benchmarks.terms import BATCHES_OF_64
from dps_ray.config import Config, settings
from dps_ray.config.files import config_file

AS_IT_IS = "in chunks, no mask"
"""How the learner makes its pass; the others are what it is compared with."""

# Dense bfloat16 operations a second, by what the name of a card holds.
_RATES = {"H100": 989e12, "H200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}
_REPEATS, _WARM_UP = 5, 2


class Setup(NamedTuple):
    model: Path
    folder: Path  # for what a stage writes
    tiny: bool  # on a CPU
    trl: Path | None

    @property
    def prompt(self) -> int:
        """Tokens of a prompt; a response has as many."""
        return 16 if self.tiny else 128

    @property
    def response(self) -> int:
        return 16 if self.tiny else 512

    @property
    def prompts(self) -> int:
        return 4 if self.tiny else 64

    def config(self, *overrides: str) -> Config:
        on_card = (
            "resources.rollout.gpus_per_engine=0.5",
            "resources.learner.gpus_per_rank=0.4",
            "model.dtype=bfloat16",
        )
        return settings.load(
            config_file("arithmetic"),
            [
                f"folder={self.folder}",
                f"model.path={self.model}",
                f"data.reward={Path(__file__).resolve()}:random_reward",
                f"data.max_prompt_length={self.prompt}",
                f"rollout.max_response_length={self.response}",
                *BATCHES_OF_64,
                f"loop.batch_size={self.prompts}",
                "method=uniform",
                *(() if self.tiny else on_card),
                *overrides,
            ],
        )


def random_reward(data_source: str, solution_str: str, ground_truth: str, extra_info: Any) -> float:
    """1 for half of all responses, so that there is something to learn from in every group."""
    return float(hashlib.blake2b(solution_str.encode()).digest()[0] % 2)


def machine() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"no GPU ({platform.machine()}), torch {torch.__version__}"
    card = torch.cuda.get_device_properties(0)
    return f"{card.name}, {card.total_memory / 1e9:.0f} GB, torch {torch.__version__}"


def random_model(folder: Path, tiny: bool) -> Path:
    """A model of Qwen2.5-1.5B's architecture, or a tiny one, whose responses hardly ever end by themselves."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from pipelines.data.warm_start import build_tokenizer

    sizes = (64, 192, 2, 2, 2, 1_000) if tiny else (1_536, 8_960, 28, 12, 2, 151_936)
    hidden, intermediate, layers, heads, kv_heads, vocabulary = sizes
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary - 1,
        pad_token_id=None,
        dtype="float32" if tiny else "bfloat16",
    )
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() and not tiny else "cpu"
    with torch.device(device):
        model = Qwen2ForCausalLM._from_config(config, dtype=config.dtype)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


# --- the learner's pass ------------------------------------------------------------------------------


def learner(setup: Setup) -> dict[str, Any]:
    """A forward and backward pass of 16 sequences, and the loss, made in four ways."""
    import torch
    from transformers import AutoModelForCausalLM

    device = torch.device("cpu" if setup.tiny else "cuda")
    dtype = torch.float32 if setup.tiny else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(setup.model, dtype=dtype).to(device).train()
    model.gradient_checkpointing_enable()
    parameters = sum(p.numel() for p in model.parameters())
    sequences = 2 if setup.tiny else 16
    tokens = sequences * (setup.prompt + setup.response)
    text = model.config
    attention = 6 * text.num_hidden_layers * text.hidden_size * (setup.prompt + setup.response)
    flops = (6 * parameters + attention) * tokens
    found: dict[str, Any] = {"parameters": parameters, "tokens": tokens}
    for chunked in (True, False):
        for masked in (False, True):
            name = f"{'in chunks' if chunked else 'all logits'}, {'a' if masked else 'no'} mask"
            seconds, peak = _timed_pass(setup, model, sequences, chunked=chunked, masked=masked)
            rate = None if setup.tiny else _rate(torch.cuda.get_device_name())
            found[name] = {
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "peak_gb": peak / 1e9,
                "utilisation": flops / seconds / rate if rate else None,
            }
    return found


def _rate(card: str) -> float | None:
    return next((rate for name, rate in _RATES.items() if name in card), None)


def _timed_pass(
    setup: Setup, model: Any, sequences: int, *, chunked: bool, masked: bool
) -> tuple[float, int]:
    """Median seconds of a pass, and the bytes that it took at most."""
    import torch

    from actors.memory import CHUNK
    from actors.scoring import scores_in_chunks
    from dps_ray.config import ObjectiveSettings
    from dps_ray.objective.grpo import PaddedTensors, TokenScores, grpo_loss, grpo_loss_of

    device = next(model.parameters()).device
    shape = sequences, setup.prompt + setup.response
    vocabulary = model.config.vocab_size
    tokens = torch.randint(vocabulary, shape, device=device)
    response = torch.zeros(shape, device=device)
    response[:, setup.prompt :] = 1
    old = torch.full(shape, -12.0, device=device)
    advantages = torch.randn(sequences, 1, device=device)
    batch = PaddedTensors(tokens, response, old, old, old, advantages)
    size = {"minibatch_tokens": int(response.sum()), "minibatch_sequences": sequences}
    scored = response[:, 1:] > 0
    attention = torch.ones_like(tokens) if masked else None

    def one_pass() -> None:
        body = model.base_model(input_ids=tokens, attention_mask=attention, use_cache=False)
        states, head = body.last_hidden_state, model.get_output_embeddings()
        if chunked:
            rows = max(1, CHUNK // vocabulary)
            found = scores_in_chunks(
                head, rows, (), states[:, :-1][scored], tokens[:, 1:][scored], 1.0, False
            )
            scores = TokenScores(
                *(torch.zeros(scored.shape, device=device).masked_scatter(scored, p) for p in found)
            )
            loss, _ = grpo_loss_of(scores, batch, settings=ObjectiveSettings(), first=True, **size)
        else:
            loss, _ = grpo_loss(
                head(states),
                None,
                batch,
                settings=ObjectiveSettings(),
                temperature=1.0,
                first=True,
                **size,
            )
        loss.backward()
        model.zero_grad()
        if not setup.tiny:
            torch.cuda.synchronize()

    if not setup.tiny:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(_WARM_UP + _REPEATS):
        began = time.perf_counter()
        one_pass()
        seconds.append(time.perf_counter() - began)
    peak = 0 if setup.tiny else torch.cuda.max_memory_allocated()
    return float(np.median(seconds[_WARM_UP:])), peak


# --- the engine --------------------------------------------------------------------------------------


def engine(setup: Setup) -> dict[str, Any]:
    """Through Ray, the actor and the driver's view of it."""
    from cluster.placement import Placement
    from cluster.start import connect

    config = setup.config()
    with connect(config):
        placement = Placement.reserve(config)
        rollouts, requests, sampling = _rollouts(setup, config, placement)
        rollouts.generate(requests[:2], replace(sampling, seed="warm"))
        began = time.perf_counter()
        groups = rollouts.generate(requests, sampling)
        seconds = time.perf_counter() - began
        count = sum(len(r.tokens) for group in groups if group for r in group.responses)
        return {"tokens": count, "seconds": seconds, "tokens_per_second": count / seconds}


def engine_alone(setup: Setup) -> dict[str, Any]:
    """vLLM called directly, with the actor's own arguments and sampling."""
    import os

    if setup.tiny:
        os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    config = setup.config()
    llm = LLM(
        str(setup.model),
        dtype=config.model.dtype,
        enforce_eager=setup.tiny,
        gpu_memory_utilization=0.425,
        max_model_len=setup.prompt + setup.response,
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        enable_chunked_prefill=not setup.tiny,
    )
    prompts = [{"prompt_token_ids": request.tokens.tolist()} for request in _requests(setup)]

    def generated(some: list[Any], seed: int) -> int:
        sampling = SamplingParams(
            n=8, max_tokens=setup.response, seed=seed, logprobs=0, detokenize=False
        )
        answers = llm.generate(some, sampling, use_tqdm=False)
        return sum(len(one.token_ids) for answer in answers for one in answer.outputs)

    generated(prompts[:2], 0)
    began = time.perf_counter()
    count = generated(prompts, 1)
    seconds = time.perf_counter() - began
    return {"tokens": count, "seconds": seconds, "tokens_per_second": count / seconds}


def _requests(setup: Setup) -> list[Any]:
    from actors.requests import Request

    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 20, (setup.prompts, setup.prompt)).astype(np.int32)
    return [Request(index, row) for index, row in enumerate(tokens)]


def _rollouts(setup: Setup, config: Config, placement: Any) -> tuple[Any, list[Any], Any]:
    """One engine that is ready, what to ask of it, and how."""
    from actors.health import Quarantine
    from actors.managed_actor import RestartTracker
    from actors.requests import Sampling
    from actors.rollout import Rollouts

    transfer = "gloo" if setup.tiny else "ipc"
    rollouts = Rollouts(
        config, str(setup.model), transfer, RestartTracker(), Quarantine(3), placement.rollout
    )
    rollouts.wait_until_ready()
    return rollouts, _requests(setup), Sampling(8, 1.0, 1.0, setup.response, "benchmark")


# --- all together ------------------------------------------------------------------------------------


def run(setup: Setup) -> dict[str, Any]:
    """Three steps of the main job. Medians, the first step left out."""
    from pipelines.monitoring.run_log import read_metrics

    overrides = (
        *("loop.steps=4", "probe.every=0", "checkpoint.every=0", "data.test=null"),
        "checkpoint.keep_best=false",
    )
    config = setup.config(*overrides)
    config.folder.mkdir(parents=True)
    file = config.folder.with_suffix(".yaml")
    file.write_text(settings.dump(config))
    command = [sys.executable, "-m", "pipelines.grpo_dps", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip()[-1000:])
    steps = [m for m in read_metrics(config.folder) if "timing_s/step" in m][1:]

    def median(name: str) -> float:
        return float(np.median([step[name] for step in steps]))

    return {
        **{
            phase: median(f"timing_s/{phase}") for phase in ("step", "generate", "train", "publish")
        },
        "publish_share": median("timing_s/publish") / median("timing_s/step"),
        "tokens_per_second": median("perf/throughput"),
        "logprob_difference": median("rollout/logprob_diff_mean"),
    }


def recover(setup: Setup) -> dict[str, Any]:
    """An engine dies beside a learner that holds its share of the card."""
    import ray

    from actors.learner import Learner
    from cluster.placement import Placement
    from cluster.start import connect
    from dps_ray.durable import Storage

    config = setup.config()
    config.folder.mkdir(parents=True, exist_ok=True)
    with connect(config):
        placement = Placement.reserve(config)
        rollouts, requests, sampling = _rollouts(setup, config, placement)
        transfer = "gloo" if setup.tiny else "ipc"
        learner = Learner(config, str(setup.model), transfer, 1, placement.learner)
        learner.start(Storage.at(config.folder), None)
        rollouts.publish(learner)
        rollouts.generate(requests[:1], sampling)
        ray.kill(rollouts.engines[0].managed.actor)
        began = time.perf_counter()
        rollouts.generate(requests[:1], replace(sampling, seed="again"))
        return {"seconds": time.perf_counter() - began}


def trl(setup: Setup) -> dict[str, Any]:
    """Seconds a step, and tokens a second, of TRL's GRPOTrainer with vLLM in the same process."""
    if setup.trl is None:
        return {"error": "--trl names no Python"}
    config = setup.config("loop.steps=4")
    task = {**task_for_trl(config, setup.model), "on_gpu": not setup.tiny}
    done = subprocess.run(trl_command(task, setup.trl), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-1000:])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    seconds, tokens = np.array(found["seconds"][1:]), np.array(found["tokens"][1:])
    return {
        "step": float(np.median(seconds)),
        "tokens_per_second": float(np.median(tokens / seconds)),
    }
