"""One rollout engine: an actor with vLLM, which samples responses to each prompt, with the log-probability of every
token, and receives new weights."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import numpy as np
import ray

from actors.card import engine_utilization, kv_cache_bytes
from actors.engine_setup import EngineSetup
from actors.images import NEVER, load_image_inputs
from actors.intake import Intake
from actors.process import log_to, take_children_along
from actors.requests import Request, Sampling, seed_of
from actors.rollout_images import engine_arguments, engine_input
from dps_ray.errors import EngineError, StaleError, TransferError
from dps_ray.failpoints import failpoint
from dps_ray.groups import Group, Response
from dps_ray.weights import START, WeightsId


# One call at a time, as vLLM requires; but requests may be added meanwhile.
@ray.remote(concurrency_groups={"intake": 1})
class RolloutEngine:
    """One vLLM engine. It starts with the weights of the start model, `START`.

    vLLM's trainer engines call the four methods for weight updates, through `EngineClient`.
    """

    def __init__(self, setup: EngineSetup, index: int, incarnation: int):
        log_to(setup.logs, f"rollout-{index}")
        take_children_along()
        failpoint("engine.start", engine=index)
        self._index = index
        self._name = f"rollout engine {index}, incarnation {incarnation}"
        self._epoch = 0  # the latest epoch that weights came from
        self._incoming: WeightsId | None = None  # the weights of an update that has begun
        self._updating = False  # vLLM is in an update, and does nothing else until it ends
        self._joining: SimpleQueue[BaseException | None] | None = (
            None  # the outcome of joining a transfer, while that lasts
        )
        self._intake = Intake()
        self._asleep = False
        from vllm import LLM

        import actors.weight_transfer  # noqa: F401  registers the CPU backend with vLLM

        self._workers = setup.workers
        self._images = load_image_inputs(setup.model, setup.max_pixels)
        self._llm = LLM(**self._llm_arguments(setup))
        self._tokenizer = self._llm.get_tokenizer()
        self._llm.update_weight_version(str(START))

    def _llm_arguments(self, setup: EngineSetup) -> dict[str, Any]:
        from vllm.config import WeightTransferConfig

        on_gpu = setup.gpus > 0
        return {
            "model": setup.model,
            "dtype": setup.dtype,
            "tensor_parallel_size": self._workers,
            # The actor holds all of the engine's GPUs: its workers are its own processes.
            "distributed_executor_backend": "mp" if setup.gpus > 1 else None,
            "gpu_memory_utilization": engine_utilization(setup.memory, setup.model),
            "enable_sleep_mode": setup.sleeps,
            "kv_cache_memory_bytes": kv_cache_bytes(setup.memory, setup.model),
            # Compiling pays on GPUs; on a CPU it costs ten seconds and gains nothing.
            "enforce_eager": setup.enforce_eager or not on_gpu,
            "max_model_len": setup.max_length,
            "max_num_seqs": setup.max_num_seqs,
            # Log-probabilities of the distribution that is sampled from, with temperature and top-p applied: the
            # learner's ratio is relative to them.
            "logprobs_mode": "processed_logprobs",
            "weight_transfer_config": WeightTransferConfig(backend=setup.transfer),
            "seed": setup.seed,
            "disable_log_stats": True,
            # With a random generator for each request, vLLM 0.32 cannot split a prefill on a CPU.
            "enable_chunked_prefill": on_gpu,
            **(engine_arguments(self._images, on_gpu) if self._images else {}),
        }

    def weights(self) -> WeightsId | None:
        """Return the weights that vLLM itself says it serves; None when it may hold parts of two."""
        failpoint("engine.weights", engine=self._index)
        if self._incoming is not None:
            return None
        return WeightsId.parse(self._llm.get_weight_version())

    def sleep(self) -> None:
        """Leave the card to the learner. Each method that needs the model wakes it. On a CPU vLLM does nothing."""
        failpoint("engine.sleep", engine=self._index)
        self._llm.sleep(level=1)  # weights to the host, the KV cache is dropped
        self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def probe(self) -> None:
        """Generate a single token. An engine that answers simpler calls may still be unable to generate."""
        from vllm import SamplingParams

        self._wake()
        self._llm.generate(
            [{"prompt_token_ids": [0]}],
            SamplingParams(max_tokens=1, detokenize=False),
            use_tqdm=False,
        )

    @ray.method(num_returns="streaming")
    def generate(
        self, requests: list[Request], sampling: Sampling, weights: WeightsId, call: int
    ) -> Iterator[list[Group]]:
        """Yield groups as they are done, one or more at a time, for these requests and those of `add_requests`.

        vLLM decodes as many responses at a time as there is room for, of whichever prompts.

        Args:
            call: a number that no other call to this actor has.

        Raises:
            StaleError: it serves other weights.
        """
        if self.weights() != weights:
            raise StaleError(
                f"{self._name} was to generate with weights {weights} and serves {self.weights()}"
            )
        failpoint("engine.generate.before", seed=sampling.seed, engine=self._index)
        self._wake()
        engine, asked = self._llm.llm_engine, dict[str, Request]()
        self._intake.open(call, requests)
        while True:
            for request in self._intake.take(close=not asked):
                failpoint(
                    "engine.prompt",
                    prompt=request.prompt_id,
                    first=request.first,
                    turn=request.turn,
                )
                asked[self._ask(request, sampling)] = request
            if not asked:
                break
            ended = [output for output in engine.step() if output.finished]
            if ended:
                yield [self._group(asked.pop(o.request_id), o, weights) for o in ended]
        failpoint("engine.generate.after", seed=sampling.seed, engine=self._index)

    @ray.method(concurrency_group="intake")
    def add_requests(self, requests: list[Request], call: int) -> None:
        """Add these requests to this call to `generate`.

        If that call has ended nothing happens; the caller asks again for what the call did not answer.
        """
        self._intake.add(call, requests)

    def _ask(self, request: Request, sampling: Sampling) -> str:
        """Add a request to vLLM's queue, and return its name there."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        name = ".".join(map(str, request.key))
        tokens = request.tokens.tolist()
        prompt: Any = {"prompt_token_ids": tokens}
        if request.images:
            assert self._images is not None, "the driver asks only vision-language models"
            prompt = engine_input(tokens, request.images, self._images)
        self._llm.llm_engine.add_request(
            name,
            prompt,
            SamplingParams(
                n=sampling.responses if request.responses is None else request.responses,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=request.max_tokens or sampling.max_tokens,
                seed=seed_of(request, sampling),
                logprobs=0,
                flat_logprobs=True,
                detokenize=False,
                logit_bias=dict.fromkeys(self._images.never_sampled, NEVER)
                if self._images
                else None,
                output_kind=RequestOutputKind.FINAL_ONLY,
            ),
        )
        return name

    def _group(self, request: Request, output: Any, weights: WeightsId) -> Group:
        if request.images and not np.array_equal(output.prompt_token_ids, request.tokens):
            raise EngineError(
                f"{self._name} answered other tokens than those of prompt {request.prompt_id}, which the "
                "learner would train on"
            )
        responses = self._responses(output)
        return Group(
            request.prompt_id,
            request.tokens,
            responses,
            weights,
            first=request.first,
            turn=request.turn,
        )

    def _responses(self, output: Any) -> list[Response]:
        texts = self._tokenizer.batch_decode(
            [list(o.token_ids) for o in output.outputs], skip_special_tokens=True
        )
        return [
            Response(
                tokens=np.array(o.token_ids, dtype=np.int32),
                logprobs=np.array(o.logprobs.logprobs, dtype=np.float32),
                text=text,
                truncated=o.finish_reason == "length",
            )
            for o, text in zip(output.outputs, texts, strict=True)
        ]

    def init_weight_transfer_engine(self, request: Any, epoch: int) -> None:
        """Leave the current transfer group, and join another.

        Raises:
            StaleError: the engine has had weights of a later epoch.
        """
        self._refuse_older_than(epoch)
        failpoint("engine.join", engine=self._index)
        self._end_broken_update()
        self._llm.shutdown_weight_transfer_engine()
        if self._workers > 1:
            self._llm.init_weight_transfer_engine(request)
        else:
            self._join(request)

    def _join(self, request: Any) -> None:
        """Join in a thread that can be abandoned. Opening a group waits for all members, with NCCL for ever, and cannot
        be interrupted."""
        self._joining = outcomes = SimpleQueue[BaseException | None]()

        def join() -> None:
            try:
                self._llm.init_weight_transfer_engine(request)
            except BaseException as error:
                outcomes.put(error)
            else:
                outcomes.put(None)

        threading.Thread(target=join, name="joining a transfer", daemon=True).start()
        error = outcomes.get()
        self._joining = None
        if error is not None:
            raise error

    def start_weight_update(self, weights: WeightsId) -> None:
        """Begin an update to these weights. The engine serves nothing until `finish_weight_update`.

        Raises:
            StaleError: the engine has had weights of a later epoch.
        """
        self._refuse_older_than(weights.epoch)
        self._wake()
        self._end_broken_update()
        self._incoming = weights
        self._llm.start_weight_update()
        self._updating = True

    def update_weights(self, request: Any) -> None:
        """Receive weights."""
        failpoint("engine.update", weights=str(self._incoming), engine=self._index)
        self._updating = False  # if this fails, vLLM ends the update
        self._llm.update_weights(request)
        self._updating = True

    def finish_weight_update(self, weights: WeightsId) -> None:
        """Serve these weights from now on.

        Raises:
            StaleError: the update that has begun is to other weights.
        """
        if weights != self._incoming:
            raise StaleError(
                f"{self._name} was to finish an update to weights {weights} and is in one to {self._incoming}"
            )
        self._llm.finish_weight_update(weight_version=str(weights))
        self._updating = False
        # The cached prefixes were computed with the old weights.
        self._llm.reset_prefix_cache()
        if self._images:
            self._llm.llm_engine.reset_encoder_cache()  # and so were the outputs of the vision tower
        self._incoming = None

    @ray.method(concurrency_group="intake")
    def leave_transfer(self) -> None:
        """Abandon a transfer that another engine's death has stopped, and that may never end by itself.

        Workers in other processes cannot be reached.
        """
        joining = self._joining
        if joining is not None:
            joining.put(TransferError("this transfer was given up"))
        elif self._incoming is not None and self._workers == 1:
            self._llm.collective_rpc(_leave_group)  # `update_weights` may be waiting in it

    def _end_broken_update(self) -> None:
        """Finish an update that was interrupted, with some old and some new weights.

        vLLM begins another update only with complete layers. The engine serves nothing until all weights have arrived.
        """
        if self._incoming is None:
            return
        if not self._updating:
            self._llm.start_weight_update()  # leaves half-loaded layers as they are
        self._llm.finish_weight_update(weight_version=str(self._incoming))
        self._updating = False

    def _refuse_older_than(self, epoch: int) -> None:
        """Refuse a learner of an earlier epoch, which may have been frozen and woken up."""
        if epoch < self._epoch:
            raise StaleError(
                f"{self._name} has had weights of epoch {self._epoch} and takes none of {epoch}"
            )
        self._epoch = epoch


def _leave_group(worker: Any) -> None:
    """Leave the transfer group, in vLLM's worker."""
    worker.weight_transfer_engine.shutdown()
