"""The evaluation: what `python -m pipelines.evaluate` is of (`inputs.py`), what is known already of each model on each
test set (`parts.py`), asking for the answers, in training too (`answers.py`), and the results and their table
(`results.py`)."""
