"""Environments: tasks over several turns, in which the policy writes, something answers, and the policy writes again."""

BUILT_IN: dict[str, str] = {
    "calculator": "dps_ray.environments.calculator:Calculator",
    "guess_the_number": "dps_ray.environments.guess_the_number:GuessTheNumber",
}
"""The built-in environments: what `environment.path` may name, and where its class is, as `module:Class`."""
