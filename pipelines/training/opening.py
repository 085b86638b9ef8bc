"""What is checked and found out about a run before its data is read and any process starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.server_setup import Served
from dps_ray.config import Config
from dps_ray.durable import Manifest, Storage
from pipelines.command.command_line import permanent
from pipelines.command.preflight import check_folder, check_machine, check_storage
from pipelines.monitoring.loggers import check_installed
from pipelines.monitoring.others import others_in
from pipelines.monitoring.run_log import read_summary
from pipelines.monitoring.view import View
from pipelines.training.checkpoint import storage_of, to_resume


@dataclass(frozen=True)
class Opening:
    """A run that can be started."""

    config: Config
    """With an absolute folder."""
    storage: Storage
    base: Manifest | None
    """The checkpoint that the run continues from; None starts it."""
    finished: dict[str, Any] | None
    """The summary, if the run has done all its steps already."""
    served: Served | None = None
    """What the servers of `rollout.servers` offer; None without servers."""


def open_run(config: Config, view: View) -> Opening:
    """Checks the machine and the run's folders, and finds the checkpoint to continue from.

    Raises:
        ConfigError, ResourceError: a folder, the machine or a logger is not as it must be.
        DataError: the runs to compare with are damaged.
        EngineError: a server of `rollout.servers` does not answer.
        CheckpointError: the checkpoint is missing, damaged, made with other settings, or would be overwritten.
    """
    config = config.model_copy(update={"folder": permanent(config.folder)})
    check_machine()
    check_folder("folder=", config.folder)
    if config.checkpoint.storage is not None:
        check_storage(config.checkpoint.storage)
    check_installed(config.loggers)
    if config.report.compared_with is not None:
        others_in(Path(config.report.compared_with))
    storage = storage_of(config)
    base = to_resume(config, storage, tell=view.message)
    summary = read_summary(config.folder)
    done = base is not None and summary is not None and summary["steps"] >= config.loop.steps
    served = None
    if config.rollout.servers and not done:
        from actors.server import ask_servers  # with httpx, which other runs do without

        served = ask_servers(config)
    return Opening(config, storage, base, summary if done else None, served)
