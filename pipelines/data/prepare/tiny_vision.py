"""A vision-language policy with 0.3 million random parameters: a small version of Qwen2.5-VL's architecture and files.

It is untrained. Its purpose is to test a pipeline with images without a GPU or a download.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pipelines.data.prepare.output import add_output, whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig

# The vocabulary has one token per byte and these special tokens of Qwen.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAX_PIXELS = 256 * 28 * 28


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed; the same seed gives the same weights (0)"
    )
    parser.add_argument(
        "--tied",
        action="store_true",
        help="use the embedding as the output head, as the smaller published models do",
    )


def run(options: argparse.Namespace, console: Console) -> None:
    with whole_folder(options.out, options.force) as folder:
        parameters = write_policy(folder, options.seed, options.tied)
    console.print(
        f"wrote {options.out}: {parameters / 1e6:.1f}M random parameters, tokenizer, image processor\n"
        f"try it: python -m pipelines.prepare geometry --out data/geometry && python -m pipelines.grpo_dps "
        f"model.path={options.out} model.dtype=float32 data.train=data/geometry/train.parquet "
        "data.test=data/geometry/test.parquet loop.steps=2 loop.batch_size=8 rollout.max_response_length=32"
    )


def write_policy(folder: Path, seed: int = 0, tied: bool = False) -> int:
    """Writes the policy's Hugging Face folder and returns the number of parameters. The same seed gives the same files.

    Args:
        tied: whether the output head is the embedding.
    """
    import torch
    import transformers
    from transformers import Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_architecture(tokenizer, tied))
    transformers.utils.logging.disable_progress_bar()  # writing the files takes milliseconds
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(max_pixels=MAX_PIXELS).save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


def _tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _architecture(tokenizer: "PreTrainedTokenizerFast", tied: bool) -> "Qwen2_5_VLConfig":
    from transformers import Qwen2_5_VLConfig

    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [4, 6, 6],  # for time, height and width: together half a head
            },
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 64,
            "window_size": 56,
            "fullatt_block_indexes": [1],  # the other block uses windowed attention
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
