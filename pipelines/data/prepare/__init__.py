"""Data and models as training wants them: `python -m pipelines.prepare --help`."""
