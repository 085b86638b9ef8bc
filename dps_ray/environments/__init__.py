"""Environments: tasks over several turns, in which the policy writes, something answers, and the policy writes again."""

BUILT_IN: dict[str, str] = {}
"""The built-in environments: what `environment.path` may name, and where its class is, as `module:Class`."""
