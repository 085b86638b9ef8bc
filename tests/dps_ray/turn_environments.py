"""Environments for tests. The answers follow from the prompt, the seed and the responses alone."""

import os
import sys
import time

import numpy as np


class Countdown:
    """Takes as many turns as the prompt's ground truth says, and each time says how many are left."""

    def __init__(self, turns=None):
        self.turns = turns

    def reset(self, prompt):
        self.prompt = prompt
        self.left = self.turns or int(prompt.ground_truth)
        return prompt.messages

    def step(self, response):
        self.left -= 1
        reward = {"score": 0.5, "acc": float(self.left == 0)}
        return (None if self.left == 0 else f"{self.left} left after {response}"), reward


class Chains:
    """Arithmetic chains: three turns, each scored as if it were the only one, and the chain is asked for again."""

    def reset(self, prompt):
        from dps_ray.tasks import compute_score

        self.turns = 0
        self.prompt = prompt
        self.score = compute_score
        return prompt.messages

    def step(self, response):
        found = self.score(self.prompt.data_source, response, self.prompt.ground_truth, None)
        self.turns += 1
        over = self.turns == 3 or found["acc"] == 1
        again = [dict(message, role="tool") for message in self.prompt.messages]
        return (None if over else again), found


class Seeded:
    """Says its seed."""

    def reset(self, prompt, seed):
        return f"seed {seed}"

    def step(self, response):
        return None, 1.0


class Gym:
    """With the methods of Gymnasium, which is not needed for them."""

    def reset(self, *, seed=None, options=None):
        self.turns = 0
        return f"{options['prompt'].messages[0]['content']} ({seed})", {}

    def step(self, action):
        self.turns += 1
        over = self.turns == 2
        return f"you said {action}", np.float32(0.25), over, False, {"acc": float(over)}


class Returns:
    """Returns from `step`, and from `reset`, what its constructor is given."""

    def __init__(self, step=None, reset="go"):
        self._step, self._reset = step, reset

    def reset(self, prompt):
        return self._reset

    def step(self, response):
        return tuple(self._step) if isinstance(self._step, list) else self._step


class NoStep:
    def reset(self, prompt):
        return "go"


class Evil(Countdown):
    """Does what the response says: hang, exit or raise."""

    def step(self, response):
        if "hang" in response:
            time.sleep(3600)
        if "exit" in response:
            os._exit(7)
        if "quit" in response:
            sys.exit(3)
        if "raise" in response:
            raise KeyError("tool")
        if "nan" in response:
            return None, float("nan")
        return super().step(response)


class HangsOn(Chains):
    """Never answers a response to the prompts whose id `every` divides, except those of a trial."""

    def __init__(self, every):
        self.every = every

    def step(self, response):
        of_a_trial = response == "?" or response.startswith("<think>")
        if self.prompt.id % self.every == 0 and not of_a_trial:
            time.sleep(3600)
        return super().step(response)
