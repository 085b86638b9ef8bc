"""Train a language model with GRPO on prompts chosen before they are rolled out.

    python -m pipelines.grpo_dps [--config FILE] [key=value ...]
    ray job submit -- python -m pipelines.grpo_dps key=value ...

Without --config it runs the built-in task (pipelines/configs/arithmetic.yaml).
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.coordinator import Coordinator
from actors.learner import Learner
from actors.learner_rank import TAG
from actors.member import Recoveries
from actors.rollout import Rollouts
from actors.verifier import Verifiers
from cluster.placement import Placement
from cluster.start import connect
from dps_ray import settings
from dps_ray.config import Config
from dps_ray.durable import Manifest, Storage
from dps_ray.errors import ConfigError, DPSError, RewardError
from dps_ray.health import Quarantine
from pipelines.checkpoint import Checkpoints, check_data, model_folder, storage_of, to_resume
from pipelines.config_files import config_file
from pipelines.inputs import Inputs, prepare
from pipelines.loggers import check_installed, make_loggers
from pipelines.report import build_report
from pipelines.run_log import RunLog, read_summary
from pipelines.stopping import Stopping, StopRequested
from pipelines.summary import summarize
from pipelines.trainer import Trainer
from pipelines.view import View, make_view


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: done, or stopped by SIGTERM. 2: what was asked for is wrong, or what failed cannot be
    mended; said in a line. 130: interrupted."""
    options = _parse(arguments)
    try:
        config = settings.load(config_file(options.config or "arithmetic"), options.overrides)
        if options.print_config:
            print(settings.dump(config), end="")
            return 0
        with make_view(config.loop.steps) as view:
            train(
                config,
                view,
                command=shlex.join(["python", "-m", "pipelines.grpo_dps", *arguments]),
            )
    except DPSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (StopRequested, KeyboardInterrupt) as stop:
        print(f"stopped ({stop}); the same command continues the run", file=sys.stderr)
        return 0 if isinstance(stop, StopRequested) and stop.signal == signal.SIGTERM else 130
    return 0


def train(config: Config, view: View, command: str = "") -> dict[str, Any]:
    """One run, from data to report. Returns the summary, which is also in `folder/summary.json`."""
    config = config.model_copy(update={"folder": _lasting(config.folder)})
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
    try:
        trainer = assemble(config, inputs, storage, base, log, view)
        with trainer.stopping.installed():
            trainer.begin_at(base)
            try:
                trainer.run()
            except (StopRequested, RewardError):
                # Raised where the last step is whole, so keep it.
                with trainer.stopping.held():
                    trainer.commit_last()
                raise
        summary = summary_of(trainer, inputs, command)
    finally:
        log.close()
        ray.shutdown()
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
) -> Trainer:
    """Claim the run, start Ray, reserve what the actors ask for, and start every actor but the learner,
    which `Trainer.begin_at` starts.

    Raises:
        ResourceError: the cluster lacks what the configuration asks for.
        EngineError: an actor did not start.
    """
    view.message("starting Ray, vLLM and DeepSpeed")
    connect(config)
    checkpoints = Checkpoints(
        config,
        storage,
        base,
        fingerprint=inputs.pool.table.fingerprint,
        deepspeed_tag=TAG,
        tell=view.message,
    )
    # After the claim, by which a driver that was there before lets go of what it has.
    placement = Placement.reserve(config, tell=view.message)
    for line in placement.describe():
        view.message("  " + line)
    recoveries = Recoveries(view.message, log.event, config.recovery.restarts)
    quarantine = Quarantine(config.recovery.prompt_failures)
    transfer = _transfer(config.resources.rollout.gpus_per_engine)

    def start_learner(epoch: int, manifest: Manifest | None) -> Learner:
        learner = Learner(config, inputs.model, transfer, epoch, placement.learner)
        try:
            learner.start(storage, manifest)
        except DPSError:
            learner.kill()
            raise
        return learner

    return Trainer(
        config,
        pool=inputs.pool,
        test=inputs.test,
        storage=storage,
        checkpoints=checkpoints,
        coordinator=Coordinator(
            config, storage, inputs.pool.ids, recoveries, placement.beliefs, inputs.clusters
        ),
        rollouts=Rollouts(
            config, inputs.model, transfer, recoveries, quarantine, placement.rollout
        ),
        verifiers=Verifiers(config, recoveries, quarantine, placement.verifiers),
        start_learner=start_learner,
        quarantine=quarantine,
        recoveries=recoveries,
        log=log,
        view=view,
        stopping=Stopping(),
    )


def _lasting(folder: Path) -> Path:
    """The folder's absolute path.

    Raises:
        ConfigError: it would be in the copy of --working-dir that Ray makes for a job, and removes after it.
    """
    if not folder.is_absolute() and "working_dir_files" in Path.cwd().parts:
        raise ConfigError(
            f"folder={folder} is relative, and this job works in a copy that Ray removes: give an absolute "
            f"one, such as folder={Path.home() / folder}; on several nodes, one that all of them share"
        )
    return folder.absolute()


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
        "command": command,
    }


def _method_name(config: Config) -> str:
    if config.loop.filter_groups and config.loop.max_gen_batches > 1:
        return "dynamic sampling" if config.method == "uniform" else f"{config.method} with refill"
    return config.method


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.grpo_dps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings:\n" + "\n".join(_help_lines()),
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file, or the name of a shipped one")
    parser.add_argument(
        "--print-config", action="store_true", help="show the resulting configuration and exit"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="overrides, as loop.steps=100"
    )
    return parser.parse_args(arguments)


def _help_lines() -> list[str]:
    lines = []
    for key, kind, default, description in settings.describe():
        lines.append(f"  {key}={default}  ({kind})")
        lines += [f"      {line.strip()}" for line in description.splitlines()]
    return lines


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Ray gives a job 3 s to stop, of which taking the interpreter apart would use 2
