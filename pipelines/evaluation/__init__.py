"""Parts of `python -m pipelines.evaluate`: models and test sets (`inputs.py`), the prompts and stored results of each
model on each test set (`parts.py`), and the results with their table (`results.py`). `pipelines/rollout/answers.py`
generates the responses, also during training."""
