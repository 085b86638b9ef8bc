"""Every metric that a run writes, in one table, and how a run's metrics are read.

`TABLE` is the reference page of the documentation. The report, the live view and the loggers take names from this
module. A selector of one's own may write other names: metrics.jsonl and the loggers take them as they are.
"""

import re
from functools import cache

from pipelines.monitoring.environment_metrics import ENVIRONMENTS, EPISODES
from pipelines.monitoring.metric_rows import Group, Metric

# The parts of a step in the order they happen. `timing_s/step` holds all but the last two, which come at some steps
# only, and beside the step. `checkpoint` is the wait for one that was not written by the time the batch was rolled out.
IN_STEP = ("select", "generate", "score", "checkpoint", "observe", "train", "publish")
PHASES = (*IN_STEP, "probe", "eval")

# Names that code reads.
TRAINING_STEP = "training/step"
REWARD_MEAN = "critic/rewards/mean"
UNSOLVED_SHARE, SOLVED_SHARE = "batch/solve_none", "batch/solve_all"
ZERO_VARIANCE = "frac_reward_zero_std"
GROUP_SIZE = "rollout/group_size_mean"
ROLLOUTS_PER_MIXED_GROUP = "rollout/rollouts_per_mixed_group"
EFFECTIVE_RATIO = "tasksample/partial_solve_ratio"
UNIFORM_RATIO = "probe/partial_solve_ratio"
DROPPED_GROUPS = "rollouts/skipped"
PREDICTION = "tasksample_hmmpred/"
PREDICTION_ACCURACY = PREDICTION + "predict_accuracy"
PREDICTION_PRECISION = PREDICTION + "precision_class2_micro"
PREDICTION_RECALL = PREDICTION + "recall_class2_micro"
PREDICTION_F1 = PREDICTION + "f1_class2_micro"
CONFUSION = "tasksample_hmmpred_cm/{predicted}{seen}"
LENGTH_MEAN, LENGTH_CUT = "response_length/mean", "response_length/clip_ratio"
ENTROPY = "actor/entropy"
POLICY_LOSS = "actor/pg_loss"
GRADIENT_NORM = "actor/grad_norm"
CLIPPED, DUAL_CLIPPED = "actor/pg_clipfrac", "actor/pg_clipfrac_lower"
KL_STEP, KL_REFERENCE = "actor/ppo_kl", "actor/kl_loss"
ENGINE_DIFFERENCE = "rollout/logprob_diff_mean"
STALENESS_MEAN, STALENESS_MAX = "staleness/mean", "staleness/max"
QUEUE_ROLLOUT, QUEUE_SCORE = "queue/rollout", "queue/score"
STEP_SECONDS = "timing_s/step"
PHASE_SECONDS = "timing_s/{phase}"
BUSY_SHARE = "busy/{pool}"
RESTARTS_OF_KIND = "recovery/restarts/{kind}"
DISTINCT_PROMPTS = "coverage/distinct_prompts"
TOTAL_ROLLOUTS, TOTAL_TOKENS = "perf/total_rollouts", "perf/total_tokens"
THROUGHPUT = "perf/throughput"

# What may stand for a placeholder: its meaning, and a regular expression.
PLACEHOLDERS = {
    "phase": ("a part of a step: " + ", ".join(PHASES), "|".join(PHASES)),
    "pool": ("`rollout` or `learner`", "rollout|learner"),
    "kind": (
        "`rollout_engine`, `verifier`, `environment`, `belief_shard` or `learner`",
        "rollout_engine|verifier|environment|belief_shard|learner",
    ),
    "source": ("a data source, `all` prompts, or the `average` of several data sources", ".+"),
    "n": ("responses to each prompt", r"\d+"),
    "m": ("a smaller number of responses: 1, 2, 4, ... below n", r"\d+"),
    "predicted": ("the predicted state: 1 unsolved, 2 partial, 3 solved", "[123]"),
    "seen": ("the state then seen, counted alike", "[123]"),
}

TABLE = (
    Group(
        "The batch",
        "pipelines/rollout",
        (
            Metric(REWARD_MEAN, "score", "Mean over the responses of the batch's scored groups"),
            Metric("critic/rewards/max", "score", "Largest score of a response"),
            Metric("critic/rewards/min", "score", "Smallest score of a response"),
            Metric("acc/mean", "share", "Mean accuracy of the responses"),
            Metric(UNSOLVED_SHARE, "share", "Groups without a right response"),
            Metric(EFFECTIVE_RATIO, "share", "Partial groups: those that carry gradient"),
            Metric(SOLVED_SHARE, "share", "Groups in which every response is right"),
            Metric(ZERO_VARIANCE, "share", "Groups whose scores are all equal (TRL's name)"),
            Metric(GROUP_SIZE, "responses", "Mean size of the scored groups"),
            Metric(LENGTH_MEAN, "tokens", "Mean length of a response"),
            Metric("response_length/max", "tokens", "Longest response"),
            Metric(LENGTH_CUT, "share", "Responses that reached the length limit"),
            Metric(
                DROPPED_GROUPS,
                "groups",
                "Groups dropped because an engine or the reward function failed",
                trouble="groups dropped",
            ),
        ),
    ),
    Group(
        "The prediction",
        "dps_ray/beliefs",
        (
            Metric(PREDICTION_ACCURACY, "share", "Prompts whose likeliest state was the one seen"),
            Metric(
                PREDICTION_PRECISION, "share", "Of the prompts predicted partial, those that were"
            ),
            Metric(
                PREDICTION_RECALL, "share", "Of the partial prompts, those that had been predicted"
            ),
            Metric(PREDICTION_F1, "share", "Harmonic mean of precision and recall"),
            Metric(
                CONFUSION,
                "prompts",
                "Confusion matrix: prompts predicted in one state and seen in another",
            ),
        ),
    ),
    Group(
        "The policy's update",
        "dps_ray/objective",
        (
            Metric(POLICY_LOSS, "", "Clipped surrogate loss, mean over response tokens"),
            Metric(CLIPPED, "share", "Tokens whose probability ratio left the clip range"),
            Metric(DUAL_CLIPPED, "share", "Tokens held back by the dual clip"),
            Metric(KL_STEP, "nats", "Policy before the batch against the policy now, a token"),
            Metric(KL_REFERENCE, "nats", "KL divergence from the reference policy, a token"),
            Metric(ENTROPY, "nats", "Entropy of the policy at a response token"),
            Metric(
                ENGINE_DIFFERENCE,
                "nats",
                "Mean absolute difference between the engine's and the learner's log-probability of a token",
            ),
            Metric("rollout/importance_mean", "", "Mean of the truncated importance weights"),
            Metric("rollout/importance_max", "", "Largest importance weight"),
            Metric("rollout/importance_clipfrac", "share", "Importance weights at the cap"),
        ),
    ),
    Group(
        "The learner",
        "actors",
        (
            Metric("actor/lr", "", "Learning rate after the step"),
            Metric(GRADIENT_NORM, "", "Gradient norm before clipping, mean over optimizer steps"),
            Metric(
                "actor/nonfinite_minibatches",
                "minibatches",
                "Minibatches left out because their loss or gradient was NaN or infinite",
                trouble="minibatches that were not finite",
            ),
        ),
    ),
    Group(
        "The prompts",
        "pipelines/rollout",
        (
            Metric(
                "data/read_ahead", "share", "Prompts that were read before they were drawn", "start"
            ),
        ),
    ),
    Group(
        "The loop",
        "pipelines/training",
        (
            Metric(TRAINING_STEP, "steps", "Number of the training step"),
            Metric("batch/useful_groups", "groups", "Groups sent to the learner"),
            Metric("rollout/wasted_share", "share", "Responses in groups that did not train"),
            Metric(
                ROLLOUTS_PER_MIXED_GROUP,
                "responses",
                "Responses for training over the partial groups that they made",
                "run",
            ),
            Metric("replay/groups", "groups", "Groups of earlier steps that trained again"),
            Metric("replay/age_max", "steps", "Age of the oldest of them"),
            Metric(STALENESS_MEAN, "versions", "Updates between sampling and training, mean"),
            Metric(STALENESS_MAX, "versions", "Updates between sampling and training, largest"),
            Metric(UNIFORM_RATIO, "share", "Partial groups among prompts drawn uniformly"),
            Metric(
                "data/prompts_set_aside",
                "prompts",
                "Prompts that were drawn and are too long or damaged; they are not drawn again",
                "run",
            ),
            Metric(DISTINCT_PROMPTS, "prompts", "Different prompts rolled out", "run"),
            Metric(TOTAL_ROLLOUTS, "responses", "Responses for training and probes", "run"),
            Metric(TOTAL_TOKENS, "tokens", "Tokens generated for the same", "run"),
            Metric(THROUGHPUT, "tokens/s", "Tokens of the batch over the seconds of the step"),
        ),
    ),
    Group(
        "Time",
        "pipelines/monitoring",
        (
            Metric(PHASE_SECONDS, "s", "Seconds that the loop spent in a phase"),
            Metric(STEP_SECONDS, "s", "Seconds of the whole step, without probe and evaluation"),
            Metric(BUSY_SHARE, "share", "Share of the step in which a pool worked"),
        ),
    ),
    Group(
        "The engines' queue",
        "actors",
        (Metric(QUEUE_ROLLOUT, "prompts", "Most prompts that waited for an engine"),),
    ),
    Group(
        "The verifiers",
        "actors",
        (
            Metric(QUEUE_SCORE, "groups", "Groups not yet scored when the last one arrived"),
            Metric(
                "verifier/failed_responses",
                "responses",
                "Responses on which the reward function did not return",
                "start",
                trouble="responses that could not be scored",
            ),
        ),
    ),
    EPISODES,
    ENVIRONMENTS,
    Group(
        "The selector",
        "dps_ray/selection",
        (
            Metric("beliefs/prompts_seen", "prompts", "Prompts observed at least once", "run"),
            Metric("beliefs/active_rows", "prompts", "Prompts with beliefs of their own", "now"),
            Metric("beliefs/resting_rows", "prompts", "Prompts whose belief has settled", "now"),
        ),
    ),
    Group(
        "The limits on coverage",
        "dps_ray/selection",
        (Metric("coverage/resting", "prompts", "Prompts that may not be selected yet", "now"),),
    ),
    Group(
        "Selection by GRESO",
        "dps_ray/selection",
        (
            Metric("greso/easy", "prompts", "Prompts in a streak of solved groups", "now"),
            Metric("greso/hard", "prompts", "Prompts in a streak of unsolved groups", "now"),
        ),
    ),
    Group(
        "Selection by history resampling",
        "dps_ray/selection",
        (Metric("history_resampling/dropped", "prompts", "Prompts left out as solved", "now"),),
    ),
    Group(
        "What was lost and replaced",
        "actors",
        (
            Metric("recovery/restarts", "actors", "Actors replaced, of all kinds", "start"),
            Metric(
                RESTARTS_OF_KIND,
                "actors",
                "Actors replaced, of one kind",
                "start",
                trouble="{kind} restarts",
            ),
        ),
    ),
    Group(
        "What a loss cost",
        "pipelines/training",
        (
            Metric(
                "recovery/steps_lost",
                "steps",
                "Steps done again because the learner was lost",
                "start",
                trouble="steps done again",
            ),
            Metric(
                "recovery/failed_checkpoints",
                "checkpoints",
                "Checkpoints that could not be written",
                "start",
                trouble="checkpoints that failed",
            ),
            Metric(
                "recovery/quarantined_prompts",
                "prompts",
                "Prompts set aside because they failed again and again",
                "now",
                trouble="prompts set aside",
            ),
        ),
    ),
    Group(
        "Evaluation on held-out prompts",
        "pipelines/rollout",
        (
            Metric("val-core/{source}/acc/mean@{n}", "share", "Mean accuracy"),
            Metric("val-core/{source}/acc/pass@{n}", "share", "Chance of a right one among n"),
            Metric("val-aux/{source}/acc/pass@{m}", "share", "Chance of a right one among m"),
            Metric("val-aux/{source}/acc/low@{n}", "share", "Lower end of mean@n's 95% interval"),
            Metric("val-aux/{source}/acc/high@{n}", "share", "Upper end of mean@n's 95% interval"),
            Metric("val-aux/{source}/acc/pass_low@{n}", "share", "Lower end of pass@n's interval"),
            Metric("val-aux/{source}/acc/pass_high@{n}", "share", "Upper end of pass@n's interval"),
            Metric("val-aux/all/reward/mean@{n}", "score", "Mean score of the responses"),
            Metric("val-aux/failed", "prompts", "Prompts without an answer that could be scored"),
            Metric("val-aux/truncated", "responses", "Responses that reached the length limit"),
        ),
    ),
)
METRICS = {metric.name: metric for group in TABLE for metric in group.metrics}


@cache
def describe(name: str) -> Metric | None:
    """The row of a metric such as `timing_s/train`, or None where the table has none.

    A row without a placeholder goes before one with: `timing_s/step` is no phase.
    """
    if name in METRICS and "{" not in name:
        return METRICS[name]
    return next((m for m in METRICS.values() if "{" in m.name and _fits(m.name, name)), None)


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(_expression(pattern), name) is not None


@cache
def _expression(pattern: str) -> str:
    parts = re.split(r"\{(\w+)\}", pattern)
    return "".join(
        f"(?:{PLACEHOLDERS[part][1]})" if i % 2 else re.escape(part) for i, part in enumerate(parts)
    )
