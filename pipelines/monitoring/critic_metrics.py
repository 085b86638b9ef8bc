"""Metrics of PPO's critic, by verl's names."""

from pipelines.monitoring.metric_rows import Group, Metric

CRITIC = Group(
    "PPO's critic",
    "actors",
    (
        Metric("critic/vf_loss", "score²", "Half the squared error of the values, clipped"),
        Metric("critic/vf_clipfrac", "share", "Tokens whose value moved as far as the clip allows"),
        Metric("critic/vpred_mean", "score", "Mean value of a response token"),
        Metric(
            "critic/vf_explained_var",
            "share",
            "Of the variance of the returns, what the values before the batch explain; none if all returns are equal",
        ),
        Metric("critic/grad_norm", "", "Gradient norm before clipping, mean over optimizer steps"),
        Metric("critic/lr", "", "Learning rate after the step"),
        Metric(
            "critic/nonfinite_minibatches",
            "minibatches",
            "Minibatches left out because their loss or gradient was NaN or infinite",
            trouble="minibatches of the critic that were not finite",
        ),
    ),
)
