"""Metrics of tasks over several turns. A run with a reward function has none of them."""

from pipelines.monitoring.metric_rows import Group, Metric

EPISODES = Group(
    "Episodes over several turns",
    "pipelines/rollout",
    (
        Metric("environment/turns_mean", "turns", "Mean number of responses in an episode"),
        Metric("environment/turns_max", "turns", "Most responses in an episode"),
        Metric("environment/truncated", "share", "Share of episodes ended by a limit"),
        Metric(
            "environment/written_share",
            "share",
            "Of the tokens after the first prompt, the share that the policy wrote",
        ),
    ),
)
ENVIRONMENTS = Group(
    "The environments",
    "actors",
    (
        Metric("environment/seconds_mean", "s", "Mean time of a call of the environment"),
        Metric("environment/seconds_max", "s", "Longest call of the environment"),
        Metric(
            "environment/failed_groups",
            "groups",
            "Groups with an episode in which the environment did not return",
            "start",
            trouble="groups whose environment did not return",
        ),
    ),
)
