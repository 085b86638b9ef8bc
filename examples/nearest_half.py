"""A selector of one's own: the prompts whose success rate, a running mean, is nearest to one half."""

import numpy as np

from dps_ray.plain_settings import Share
from dps_ray.selection.methods.scored import ScoredSelector
from dps_ray.selection.settings import SelectorSettings


class NearestHalf(ScoredSelector):
    class Settings(SelectorSettings):
        decay: Share = 0.7
        """Weight of the past in the running mean of a prompt's success rate."""

    saved_settings = ("seed", "decay")
    saved_by_prompt = ("times", "rate")
    learns_from_counts = True

    @classmethod
    def make(cls, ids, settings, context):
        return cls(ids, context.seed, settings.decay)

    def __init__(self, ids, seed=0, decay=0.7):
        super().__init__(ids, seed)
        self.decay = decay
        self._rate = np.full(len(self), 0.5)

    def learn(self, seen):
        past = self.decay * self._rate[seen.positions]
        self._rate[seen.positions] = past + (1 - self.decay) * seen.successes / seen.responses

    def scores(self):
        return -np.abs(self._rate - 0.5)
