"""Train a language model with GRPO on prompts chosen before they are rolled out.

    python -m pipelines.grpo_dps [--config FILE] [key=value ...]
    ray job submit -- python -m pipelines.grpo_dps key=value ...

Without --config it runs the built-in task (dps_ray/configs/arithmetic.yaml); with data.train=..., the settings
below hold.
"""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from dps_ray.config import Config, settings
from dps_ray.config.files import file_of_run
from pipelines.command.command_line import exit_code, leave, parse
from pipelines.command.stopping import Stopping
from pipelines.monitoring.view import View, make_view
from pipelines.training.opening import open_run
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


def train(config: Config, view: View, command: str) -> dict[str, Any]:
    """One run, from data to report. Returns the summary, which is also in `folder/summary.json`."""
    opening = open_run(config, view)
    if opening.finished is not None:
        view.message(
            f"{opening.config.folder} is finished after {opening.finished['steps']} steps: a larger loop.steps "
            "continues it, another folder starts anew"
        )
        return opening.finished
    with Trainer.start(opening, view, stopping=Stopping(), command=command) as trainer:
        return trainer.train()


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
