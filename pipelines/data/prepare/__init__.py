"""Preparation of data and models for training: `python -m pipelines.prepare --help`."""
