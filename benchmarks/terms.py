"""The settings that measurements of time are made with: batches of 64 prompts x 8, without a filter, and two optimizer steps
each. They are those that the built-in task had until 2026-11-29, so that figures of different days can be compared."""

BATCHES_OF_64 = (
    "loop.batch_size=64",
    "loop.filter_groups=false",
    "rollout.group_size=8",
    "learner.lr=1e-4",
    "learner.minibatches=2",
    "learner.epochs=1",
)
