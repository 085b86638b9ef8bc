"""What this does on a GPU, in about ten minutes on one card:  python -m benchmarks.gpu

A model of Qwen2.5-1.5B's architecture with random weights, or any given by --model; prompts of 128 tokens, responses
of 512. Each stage is a process of its own within a limit of time, and what it found is written at once, so that a
stage that fails costs nothing but itself:

    learner       time, tokens a second, peak memory and model FLOPs utilisation of a forward and backward pass, with
                  and without a mask, with the head in chunks and all logits at once
    engine        tokens a second through this project's actor
    engine-alone  the same prompts given to vLLM directly
    run           three steps of the main job, engine and rank on the same card: what publishing takes of a step, and
                  how far engine and learner are apart after it
    recover       an engine is killed on the shared card: seconds until it answers again
    trl           TRL's GRPOTrainer with vLLM on the same card and model, where --trl names a Python that has it

--tiny runs all of it on a CPU with a tiny model: that it works, and no figure to look at.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import gpu_stages
from dps_ray.paths import path_option

STAGES: Mapping[str, Callable[[gpu_stages.Setup], dict[str, Any]]] = {
    "learner": gpu_stages.learner,
    "engine": gpu_stages.engine,
    "engine-alone": gpu_stages.engine_alone,
    "run": gpu_stages.run,
    "recover": gpu_stages.recover,
    "trl": gpu_stages.trl,
}
LIMITS = {"learner": 90, "engine": 120, "engine-alone": 90, "run": 150, "recover": 120, "trl": 150}
"""Seconds of each stage on a GPU."""


def main(arguments: Sequence[str]) -> int:
    """0: every stage was measured; 1: one failed or took too long."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--stages", default="learner,engine,engine-alone,run,recover", help="by name, with commas"
    )
    parser.add_argument("--model", type=path_option, help="a model folder")
    parser.add_argument("--trl", type=path_option, metavar="PYTHON")
    parser.add_argument("--out", type=path_option, default=Path("gpu.json"), help="a JSON file")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with a tiny model")
    parser.add_argument("--of-stage", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.stages.split(",")) - set(STAGES):
        parser.error(f"--stages {options.stages}: there is no {', '.join(unknown)}; {[*STAGES]}")
    if options.of_stage is not None:
        setup = gpu_stages.Setup(options.model, options.out, options.tiny, options.trl)
        print(json.dumps(STAGES[options.of_stage](setup)))
        return 0
    console = Console()
    found: dict[str, Any] = {"machine": gpu_stages.machine()}
    console.print(found["machine"])
    with tempfile.TemporaryDirectory() as aside:
        model = options.model or gpu_stages.random_model(Path(aside) / "model", options.tiny)
        for name in options.stages.split(","):
            found[name] = _measured(name, model, Path(aside) / name, options)
            console.print(name, found[name])
            options.out.write_text(json.dumps(found, indent=2))
    console.print(_table(found))
    return int(any("error" in part for part in found.values()))


def _measured(name: str, model: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a stage found, or why it found nothing."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--of-stage", name, f"--model={model}"]
    command += [f"--out={folder}", *(["--tiny"] if options.tiny else [])]
    command += [f"--trl={options.trl}"] if options.trl else []
    limit = 600 if options.tiny else LIMITS[name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {limit} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        (folder.parent / f"{name}.log").write_text(done.stdout + done.stderr)
        return {"error": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def _table(found: Mapping[str, Any]) -> Table:
    """What was to be reached, and what was."""
    table = Table("", "measured", "target")
    learner, run = found.get("learner", {}), found.get("run", {})
    for name, figures in learner.items():
        if isinstance(figures, dict):
            use = figures["utilisation"]
            table.add_row(
                f"learner, {name}",
                f"{figures['tokens_per_second']:,.0f} tokens/s, {figures['peak_gb']:.1f} GB"
                + (f", {use:.0%} of the card's rate" if use else ""),
                "40%" if name == gpu_stages.AS_IT_IS else "",
            )
    ours = found.get("engine", {}).get("tokens_per_second")
    alone = found.get("engine-alone", {}).get("tokens_per_second")
    if ours and alone:
        table.add_row(
            "engine through the actor, of the engine alone", f"{ours / alone:.2f}", "0.95"
        )
    if "publish_share" in run:
        table.add_row("publishing, of a step", f"{run['publish_share']:.1%}", "5% at most")
        table.add_row(
            "engine and learner apart, nats a token", f"{run['logprob_difference']:.1e}", ""
        )
    if "seconds" in found.get("recover", {}):
        table.add_row(
            "a killed engine answers again after", f"{found['recover']['seconds']:.1f} s", ""
        )
    if "tokens_per_second" in found.get("trl", {}) and "tokens_per_second" in run:
        ratio = run["tokens_per_second"] / found["trl"]["tokens_per_second"]
        table.add_row("tokens a second of a step, to TRL's", f"{ratio:.2f}", "1.3")
    for name, part in found.items():
        if "error" in part:
            table.add_row(name, part["error"], "")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
