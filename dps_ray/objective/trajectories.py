"""Training data as flat arrays, which Ray passes without copying, and its division into micro-batches.

A step's trajectories are shuffled into minibatches, one for each optimizer step. Each minibatch is distributed over
the ranks, and each rank's share is packed into micro-batches of a bounded number of tokens, one for each forward and
backward pass. The loss does not depend on the packing: see `dps_ray.objective.grpo.token_weights`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Images(NamedTuple):
    """The encoded images in the prompts of n trajectories. Trajectories of the same prompt share them."""

    files: NDArray[np.uint8]  # concatenated
    ends: NDArray[np.int64]  # (files,) end of each file in `files`
    firsts: NDArray[np.int64]  # (n,) index of each trajectory's first file
    counts: NDArray[np.int64]  # (n,) number of each trajectory's files, in the prompt's order

    def of(self, row: int) -> range:
        """The indices of a trajectory's files."""
        return range(self.firsts[row], self.firsts[row] + self.counts[row])

    def file(self, index: int) -> bytes:
        start = int(self.ends[index - 1]) if index else 0
        return self.files[start : int(self.ends[index])].tobytes()


class Trajectories(NamedTuple):
    """n responses with their prompts. Sequences are concatenated, prompt before response."""

    tokens: NDArray[np.int32]  # (sum of prompt and response lengths,)
    logprobs: NDArray[np.float32]  # (sum of response lengths,) of the policy that sampled them
    prompt_lengths: NDArray[np.int64]  # (n,)
    response_lengths: NDArray[np.int64]  # (n,), at least 1
    advantages: NDArray[np.float32]  # (n,)
    # (sum of response lengths,) log-probabilities of the policy before this batch's first update, the denominator
    # of the clipped ratio; None: use `logprobs`.
    proximal: NDArray[np.float32] | None = None
    # (sum of response lengths,) log-probabilities of the reference policy; None: there is no reference policy.
    reference: NDArray[np.float32] | None = None
    images: Images | None = None  # None: no prompt has images
    # (sum of response lengths,) False on tokens that the policy did not write, which the loss leaves out; None: it
    # wrote all.
    trained: NDArray[np.bool_] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of prompt and response together."""
        return self.prompt_lengths + self.response_lengths

    @property
    def trained_lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of the response that are trained."""
        if self.trained is None:
            return self.response_lengths
        ends = np.cumsum(self.response_lengths)
        until = np.concatenate([[0], np.cumsum(self.trained)])
        counts: NDArray[np.int64] = until[ends] - until[ends - self.response_lengths]
        return counts


class PaddedBatch(NamedTuple):
    """A micro-batch of b sequences, padded on the right to the length t of the longest. A model with causal attention
    needs no padding mask, because later tokens do not affect earlier ones."""

    tokens: NDArray[np.int64]  # (b, t), 0 on padding
    response: NDArray[np.float32]  # (b, t), 1 on the response tokens that are trained
    logprobs: NDArray[np.float32]  # (b, t), 0 outside the response
    proximal: NDArray[np.float32]  # (b, t), 0 outside the response
    reference: NDArray[
        np.float32
    ]  # (b, t), 0 outside the response; all 0 without a reference policy
    advantages: NDArray[np.float32]  # (b, 1)


def minibatches(n: int, count: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Shuffles n trajectories into at most `count` minibatches of nearly equal size, none of them empty."""
    order = rng.permutation(n)
    return [order[i::count] for i in range(min(count, n))]


def micro_batches(
    lengths: NDArray[np.int64], max_tokens: int, ranks: int
) -> list[list[NDArray[np.int64]]]:
    """Distributes a minibatch over the ranks and packs each rank's share, longest first.

    Args:
        lengths: (n,) tokens of each sequence.
        max_tokens: bound on the number of sequences times the longest sequence of a micro-batch,
            padding included.
        ranks: number of learner ranks. All ranks get the same number of micro-batches, because
            under ZeRO every forward and backward pass is collective; some may be empty.

    Returns:
        For each rank, a list of index arrays into `lengths`.

    Raises:
        ValueError: a sequence is longer than max_tokens.
    """
    if len(lengths) and lengths.max() > max_tokens:
        raise ValueError(
            f"a sequence of {lengths.max()} tokens does not fit a micro-batch of {max_tokens}"
        )
    longest_first = np.argsort(-lengths, kind="stable")
    packed = [_pack(longest_first[rank::ranks], lengths, max_tokens) for rank in range(ranks)]
    most = max(map(len, packed))
    nothing = np.empty(0, dtype=np.int64)
    return [share + [nothing] * (most - len(share)) for share in packed]


def _pack(
    order: NDArray[np.int64], lengths: NDArray[np.int64], max_tokens: int
) -> list[NDArray[np.int64]]:
    packs, start = [], 0
    while start < len(order):
        fits = max_tokens // int(lengths[order[start]])
        packs.append(order[start : start + fits])
        start += fits
    return packs


def pad(trajectories: Trajectories, rows: NDArray[np.int64]) -> PaddedBatch:
    """The given trajectories as one padded batch. Without rows it is one sequence of two tokens with
    weight zero, for ranks that run a pass only because the other ranks do."""
    if len(rows) == 0:
        nothing = np.zeros((1, 2), dtype=np.float32)
        blank = nothing.astype(np.int64)
        return PaddedBatch(blank, nothing, nothing, nothing, nothing, nothing[:, :1])
    lengths = trajectories.lengths
    starts = np.concatenate([[0], np.cumsum(lengths)])
    response_starts = np.concatenate([[0], np.cumsum(trajectories.response_lengths)])
    shape = (len(rows), int(lengths[rows].max()))
    tokens = np.zeros(shape, dtype=np.int64)
    response, logprobs, proximal, reference = np.zeros((4, *shape), dtype=np.float32)
    values = [(logprobs, trajectories.logprobs), (proximal, trajectories.logprobs)]
    if trajectories.proximal is not None:
        values[1] = (proximal, trajectories.proximal)
    if trajectories.reference is not None:
        values.append((reference, trajectories.reference))
    for line, row in enumerate(rows):
        first, end = int(trajectories.prompt_lengths[row]), int(lengths[row])
        tokens[line, :end] = trajectories.tokens[starts[row] : starts[row + 1]]
        places = slice(response_starts[row], response_starts[row + 1])
        response[line, first:end] = (
            1 if trajectories.trained is None else trajectories.trained[places]
        )
        for padded, flat in values:
            padded[line, first:end] = flat[places]
    advantages = trajectories.advantages[rows, None]
    return PaddedBatch(tokens, response, logprobs, proximal, reference, advantages)


def with_blank(batch: PaddedBatch, token: int) -> PaddedBatch:
    """The batch with one more sequence, which consists of this token and has weight zero."""
    blank = PaddedBatch(*map(_with_a_row_of_zeros, batch))
    blank.tokens[-1, 0] = token
    return blank


def _with_a_row_of_zeros(array: Any) -> Any:
    return np.pad(array, ((0, 1), (0, 0)))


def unpad(
    padded: NDArray[np.float32],
    trajectories: Trajectories,
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Copies the values of a micro-batch's response tokens to these trajectories' positions in `out`. `padded` is
    (b, t) in the layout of `pad`; `out` is (sum of response lengths,)."""
    response_starts = np.concatenate([[0], np.cumsum(trajectories.response_lengths)])
    for line, row in enumerate(rows):
        first, end = int(trajectories.prompt_lengths[row]), int(trajectories.lengths[row])
        out[response_starts[row] : response_starts[row + 1]] = padded[line, first:end]


def concatenate(
    sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], float]],
) -> Trajectories:
    """Concatenates (prompt tokens, response tokens, response log-probs, advantage) tuples into flat arrays."""
    prompts, responses, logprobs, advantages = zip(*sequences, strict=True)
    interleaved = [part for pair in zip(prompts, responses, strict=True) for part in pair]
    return Trajectories(
        tokens=np.concatenate(interleaved).astype(np.int32),
        logprobs=np.concatenate(logprobs).astype(np.float32),
        prompt_lengths=np.array([len(p) for p in prompts], dtype=np.int64),
        response_lengths=np.array([len(r) for r in responses], dtype=np.int64),
        advantages=np.array(advantages, dtype=np.float32),
    )


def pack_images(of_each: Sequence[Sequence[bytes]]) -> Images | None:
    """Packs the encoded images of n trajectories; None if there are no images. Adjacent trajectories whose entry is
    the same object share the files."""
    if not any(of_each):
        return None
    files: list[bytes] = []
    firsts: list[int] = []
    before: Sequence[bytes] | None = None
    for these in of_each:
        if these is before:
            firsts.append(firsts[-1])
            continue
        firsts.append(len(files))
        files += these
        before = these
    return Images(
        files=np.frombuffer(b"".join(files), dtype=np.uint8),
        ends=np.cumsum([len(file) for file in files], dtype=np.int64),
        firsts=np.array(firsts, dtype=np.int64),
        counts=np.array([len(these) for these in of_each], dtype=np.int64),
    )
