"""Train a language model with GRPO on prompts chosen before they are rolled out.

    python -m pipelines.grpo_dps [--config FILE] [key=value ...]
    ray job submit -- python -m pipelines.grpo_dps key=value ...

Without --config it runs the built-in task (pipelines/configs/arithmetic.yaml); with data.train=..., the settings
below hold.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from actors.coordinator import Coordinator
from actors.health import Quarantine
from actors.learner import Learner
from actors.managed_actor import RestartTracker
from actors.rollout import Rollouts
from actors.verifier import Verifiers
from cluster.placement import Placement
from cluster.start import connect
from dps_ray.config import Config, settings
from dps_ray.durable import DEEPSPEED_TAG, Manifest, Storage
from dps_ray.errors import RewardError
from pipelines.command.command_line import exit_code, lasting, leave, parse
from pipelines.command.config_files import file_of_run
from pipelines.command.preflight import check_folder, check_machine, check_storage
from pipelines.command.stopping import Stopping, StopRequested
from pipelines.monitoring.loggers import check_installed, make_loggers
from pipelines.monitoring.report import build_report
from pipelines.monitoring.run_log import RunLog, read_summary
from pipelines.monitoring.summary import summarize
from pipelines.monitoring.view import View, make_view
from pipelines.training.checkpoint import (
    Checkpoints,
    check_data,
    model_folder,
    storage_of,
    to_resume,
)
from pipelines.training.fit import check_fit
from pipelines.training.inputs import Inputs, prepare
from pipelines.training.trainer import Trainer


def main(arguments: Sequence[str]) -> int:
    """The exit code, as `command_line.exit_code` says."""
    options = parse("grpo_dps", __doc__ or "", Config, arguments)

    def work() -> None:
        file = file_of_run(options.config, options.overrides)
        config = settings.load(file, options.overrides)
        if options.print_config:
            print(settings.dump(config), end="")
            return
        command = shlex.join(["python", "-m", "pipelines.grpo_dps", *arguments])
        with make_view(config.loop.steps) as view:
            train(config, view, command)

    return exit_code(work, when_stopped="the same command continues the run")


def train(config: Config, view: View, command: str = "") -> dict[str, Any]:
    """One run, from data to report. Returns the summary, which is also in `folder/summary.json`."""
    config = config.model_copy(update={"folder": lasting(config.folder)})
    check_machine()
    check_folder("folder=", config.folder)
    if config.checkpoint.storage is not None:
        check_storage(config.checkpoint.storage)
    check_installed(config.loggers)
    storage = storage_of(config)
    base = to_resume(config, storage, tell=view.message)
    finished = read_summary(config.folder)
    if base is not None and finished is not None and finished["steps"] >= config.loop.steps:
        view.message(
            f"{config.folder} is finished after {finished['steps']} steps: a larger loop.steps "
            "continues it, another folder starts anew"
        )
        return finished
    inputs = prepare(config, view)
    if base is not None:
        check_data(base, inputs.pool.table.fingerprint, config.data.train)
        view.message(f"continues from checkpoint {base.name}")
    settings_tree = config.model_dump(mode="json")
    log = RunLog(config.folder, make_loggers(config.loggers, config.folder, settings_tree))
    (config.folder / "config.yaml").write_text(settings.dump(config))
    with ExitStack() as ends:
        ends.callback(log.close)
        trainer = assemble(config, inputs, storage, base, log, view, ends)
        with trainer.stopping.installed():
            trainer.start(base)
            try:
                trainer.run()
            except (StopRequested, RewardError):
                # Raised where the last step is whole, so keep it.
                with trainer.stopping.held():
                    trainer.commit_last()
                raise
        summary = summary_of(trainer, inputs, command)
    log.summary(summary)
    report = build_report(config.folder)
    view.finish(f"{summarize(summary)}\nReport: {report}")
    return summary


def assemble(
    config: Config,
    inputs: Inputs,
    storage: Storage,
    base: Manifest | None,
    log: RunLog,
    view: View,
    ends: ExitStack,
) -> Trainer:
    """Claim the run, start Ray, reserve what the actors ask for, and start every actor but the learner,
    which `Trainer.start` starts. What ends with the run is left to `ends`.

    Raises:
        ResourceError: the cluster lacks what the configuration asks for.
        EngineError: an actor did not start.
    """
    view.message("starting Ray, vLLM and DeepSpeed")
    joined = ends.enter_context(connect(config))

    def at_the_end(stop: Callable[[], None]) -> None:
        if joined:  # else Ray ends with the run, and everything in it
            ends.callback(stop)

    checkpoints = Checkpoints(
        config,
        storage,
        base,
        fingerprint=inputs.pool.table.fingerprint,
        deepspeed_tag=DEEPSPEED_TAG,
        tell=view.message,
    )
    # After the claim, by which a driver that was there before lets go of what it has.
    placement = Placement.reserve(config, tell=view.message)
    at_the_end(placement.release)
    for line in (*placement.describe(), *check_fit(config, inputs.model, placement.learner(0))):
        view.message("  " + line)
    recoveries = RestartTracker(view.message, log.event, config.recovery.restarts)
    quarantine = Quarantine(config.recovery.prompt_failures)
    transfer = _transfer(config.resources.rollout.gpus_per_engine)

    def make_learner(epoch: int) -> Learner:
        learner = Learner(config, inputs.model, transfer, epoch, placement.learner)
        at_the_end(learner.kill)
        return learner

    coordinator = Coordinator(
        config, storage, inputs.pool.ids, recoveries, placement.beliefs, inputs.clusters
    )
    at_the_end(coordinator.stop)
    rollouts = Rollouts(config, inputs.model, transfer, recoveries, quarantine, placement.rollout)
    at_the_end(rollouts.stop)
    verifiers = Verifiers(config, recoveries, quarantine, placement.verifiers)
    at_the_end(verifiers.stop)
    return Trainer(
        config,
        pool=inputs.pool,
        test=inputs.test,
        storage=storage,
        checkpoints=checkpoints,
        coordinator=coordinator,
        rollouts=rollouts,
        verifiers=verifiers,
        make_learner=make_learner,
        quarantine=quarantine,
        recoveries=recoveries,
        log=log,
        view=view,
        stopping=Stopping(),
    )


def _transfer(gpus_per_engine: float) -> str:
    """How weights go to the engines: NCCL does not work between processes that share a card."""
    if gpus_per_engine == 0:
        return "gloo"
    return "nccl" if gpus_per_engine >= 1 else "ipc"


def summary_of(trainer: Trainer, inputs: Inputs, command: str) -> dict[str, Any]:
    """The closing account of a run, as `summary.json` holds it."""
    config, progress = trainer.config, trainer.progress
    evaluations = progress.accuracy
    newest = trainer.checkpoints.newest
    return {
        "method": _method_name(config),
        "task": str(config.data.train),
        "seed": config.seed,
        "steps": progress.step,
        "accuracy_before": evaluations[0] if evaluations else None,
        "accuracy_after": evaluations[-1] if evaluations else None,
        "rollouts": progress.rollouts,
        "tokens": progress.tokens,
        "effective_ratio": _mean(progress.effective),
        "uniform_effective_ratio": _mean(progress.uniform) if progress.uniform else None,
        "gradient_share": progress.trained_rollouts / max(progress.training_rollouts, 1),
        "distinct_prompts": progress.distinct_prompts,
        "pool": len(inputs.pool.ids),
        "seconds": progress.seconds,
        "times_sampled": {str(t): n for t, n in trainer.coordinator.times_sampled().items()},
        "model": inputs.model,
        "checkpoint": model_folder(trainer.storage, newest) if newest else None,
        "best": _best(trainer, inputs.model) if config.checkpoint.keep_best else None,
        "command": command,
    }


def _best(trainer: Trainer, start_policy: str) -> dict[str, Any] | None:
    """The evaluated step with the highest accuracy on held-out prompts, and where its model is."""
    start, best = trainer.progress.accuracy_at(0), trainer.checkpoints.best
    if best is not None and best.accuracy is not None and (start is None or best.accuracy > start):
        model = model_folder(trainer.storage, best)
        return {"step": best.step, "accuracy": best.accuracy, "model": model}
    return None if start is None else {"step": 0, "accuracy": start, "model": start_policy}


def _method_name(config: Config) -> str:
    if config.loop.filter_groups and config.loop.max_gen_batches > 1:
        return "dynamic sampling" if config.method == "uniform" else f"{config.method} with refill"
    return config.method


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
