"""Prompt selection in other training frameworks, one module each. Each imports its framework, and nothing else does."""
