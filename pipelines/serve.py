"""Start a vLLM server that generates for a run with `rollout.servers`, with the settings of that run.

    python -m pipelines.serve [--config FILE] [key=value ...] --port 8000
    python -m pipelines.grpo_dps [--config FILE] [key=value ...] 'rollout.servers=[http://127.0.0.1:8000]'

It is vLLM's own server with the flags that the run needs and, on a CPU, with the transfer of weights by gloo, which vLLM
does not have. On GPUs `vllm serve` with the flags of docs/engines_apart.md does the same.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from actors.process import take_children_along
from actors.server_setup import server_arguments, server_environment
from dps_ray.config import Config, settings
from dps_ray.config.files import file_of_run
from pipelines.command.command_line import exit_code, parse
from pipelines.monitoring.view import LineView
from pipelines.training.inputs import model_of


def main(arguments: Sequence[str]) -> int:
    """The exit code, as `command_line.exit_code` says."""
    options = parse("serve", __doc__ or "", Config, arguments, _add_options)

    def work() -> None:
        config = settings.load(file_of_run(options.config, options.overrides), options.overrides)
        if options.print_config:
            print(settings.dump(config), end="")
            return
        view = LineView(0, Console(soft_wrap=True, markup=False, highlight=False), time.monotonic)
        model = model_of(config, view)
        os.environ.update(server_environment(config))
        take_children_along()  # vLLM's engine would stay after a kill, with its memory
        _serve(server_arguments(config, model, options.host, options.port))

    return exit_code(work, when_stopped="the server has ended")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, required=True, help="port to listen at")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: %(default)s, this machine alone). Whoever reaches the server can "
        "replace its weights, so it belongs in a network of your own",
    )


def _serve(arguments: Sequence[str]) -> None:
    """Run vLLM's server until a signal ends it."""
    # Imported late: vLLM and torch read the environment when they are imported.
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    import actors.weight_transfer  # noqa: F401  registers the CPU backend with vLLM

    cli_env_setup()
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(list(arguments))
    validate_parsed_serve_args(parsed)
    uvloop.run(run_server(parsed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
