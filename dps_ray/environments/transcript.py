"""The tokens of one episode, as the engines sample them and the learner trains on them.

    prompt | response | messages | response | messages | response
           └─ written ┴─ read ───┴─ written ┴─ read ───┴─ written ┘ one `Response`

Tokens go in as tokens: what the policy wrote is never decoded and tokenized again, which could change it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dps_ray.groups import Response


class Transcript(NamedTuple):
    """An episode so far, after the first prompt.

    tokens:   (n,) everything, in order
    logprobs: (n,) of the written tokens under the policy that sampled them; 0 for those that were read
    written:  (n,) whether the policy wrote the token
    texts:    what was written and read, in order
    turns:    number of responses
    """

    tokens: NDArray[np.int32] = np.empty(0, np.int32)
    logprobs: NDArray[np.float32] = np.empty(0, np.float32)
    written: NDArray[np.bool_] = np.empty(0, np.bool_)
    texts: tuple[str, ...] = ()
    turns: int = 0

    def wrote(self, response: Response) -> "Transcript":
        """Returns the episode with one more response of the policy."""
        return Transcript(
            np.concatenate([self.tokens, response.tokens]).astype(np.int32),
            np.concatenate([self.logprobs, response.logprobs]).astype(np.float32),
            np.concatenate([self.written, np.ones(len(response.tokens), np.bool_)]),
            (*self.texts, response.text),
            self.turns + 1,
        )

    def read(self, tokens: NDArray[np.int32], texts: Sequence[str]) -> "Transcript":
        """Returns the episode with messages that the policy reads next."""
        nothing = np.zeros(len(tokens))
        return self._replace(
            tokens=np.concatenate([self.tokens, tokens]).astype(np.int32),
            logprobs=np.concatenate([self.logprobs, nothing]).astype(np.float32),
            written=np.concatenate([self.written, nothing.astype(np.bool_)]),
            texts=(*self.texts, *texts),
        )

    def response(self, *, truncated: bool) -> Response:
        """Returns the whole episode as one response.

        truncated: whether a limit ended it.
        """
        text = "\n".join(self.texts)
        return Response(self.tokens, self.logprobs, text, truncated, self.written, self.turns)
