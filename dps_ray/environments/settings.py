"""Settings of tasks over several turns: `environment.*`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dps_ray.plugins import spec_of
from dps_ray.setting_types import HOME, Count, Seconds, Settings


def _by_name(environment: Any) -> Any:
    """Returns the name of a class, by which other processes load it."""
    return spec_of(environment) if isinstance(environment, type) else environment


class EnvironmentSettings(Settings):
    """A task over several turns, in place of a reward function. See docs/environments.md."""

    path: Annotated[str | None, HOME, BeforeValidator(_by_name)] = None
    """Environment of a task over several turns: a class as `module:Class` or `file.py:Class`, or the name of a built-in
    environment. null: a prompt has one response, which the reward function `data.reward` scores."""
    kwargs: dict[str, Any] = Field(default={})
    """Keyword arguments for the environment's constructor: `environment.kwargs={limit: 100}`."""
    max_turns: Count = 8
    """Maximum number of responses in an episode. `rollout.max_response_length` limits its tokens: those of all responses
    and of the messages between them."""
    turn_timeout: Seconds = 10.0
    """Maximum seconds for one call of the environment's `reset` or `step`. A call that takes longer is ended, and the group
    of the episode is dropped and counted as failed."""


def one_source_of_rewards(environment: EnvironmentSettings, reward: str | None) -> None:
    """
    Raises:
        ValueError: there is an environment, and a reward function too.
    """
    if environment.path is not None and reward is not None:
        raise ValueError(
            f"environment.path={environment.path} and data.reward={reward}: an environment gives the rewards itself; set "
            "one of them to null"
        )
