"""Prompts with images become tokens, and what does not fit together is said before anything starts."""

import numpy as np
import pytest

from actors.images import load_image_inputs
from dps_ray.config import settings
from dps_ray.errors import DataError
from dps_ray.prompts.dataset import PromptTable
from dps_ray.prompts.files import write_prompts
from pipelines.rollout.pool import PromptPool
from pipelines.rollout.processors import load_tokenizer
from tests.squares import row, square


@pytest.fixture
def pool(tmp_path, vision_policy):
    def make(rows, *overrides, model=vision_policy):
        path = tmp_path / "squares.parquet"
        write_prompts(path, rows)
        config = settings.load(None, [f"folder={tmp_path}", f"model.path={model}", *overrides])
        inputs = load_image_inputs(str(model), config.data.max_pixels)
        tokenizer = load_tokenizer(str(model), None)
        return PromptPool(PromptTable.open(path), tokenizer, inputs, config, lambda *_: None)

    return make


def text_of(pool, request) -> str:
    return pool.encoder.tokenizer.decode(request.tokens)


def requests(pool):
    return pool.encoder.requests(pool.prompts(pool.ids))


def test_an_image_stands_where_its_mark_is_with_as_many_tokens_as_its_size_gives(pool):
    images = [square("red", 56, 56), square("blue", 112, 84)]
    made = pool([row("red", images=images, text="Is <image> like <image>?")])
    [request] = requests(made)
    begin, end, one = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
    assert text_of(made, request) == (
        f"<|im_start|>user\nIs {begin}{one * 4}{end} like {begin}{one * 12}{end}?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert request.images == tuple(images)


def test_rows_with_and_without_images_live_in_one_pool(pool):
    made = pool([row("red", 0), row("blue", 1, images=[], text="No image here.")])
    with_image, without = requests(made)
    assert len(with_image.images) == 1
    assert without.images == ()
    assert "<|image_pad|>" not in text_of(made, without)


def test_the_length_limit_counts_the_tokens_of_images(pool):
    rows = [
        row("red", i, images=[square("red", 28 * side, 28 * side)]) for i, side in ((0, 2), (1, 12))
    ]
    made = pool(rows, "data.max_prompt_length=100")
    assert (len(made.ids), made.skipped) == (1, 1)
    assert pool(rows, "data.max_prompt_length=400").skipped == 0


def test_a_larger_image_is_scaled_down_to_max_pixels(pool):
    made = pool([row("red", images=[square("red", 560, 560)])], f"data.max_pixels={25 * 28 * 28}")
    [request] = requests(made)
    assert np.sum(request.tokens == made.encoder.images.token) == 25


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("red"), row("blue", images=[square("blue")[:-20]])], r"row 1, column 'images': image 0 of prompt"),
        ([row("red", images=[b"no image"])], "no image that Pillow knows"),
        ([row("red", images=[square("red", 1, 400)])], "aspect ratio"),
        ([row("red", text="No mark.")], "1 images for 0 <image>"),
        ([row("red", text="<image><image>")], "1 images for 2 <image>"),
        ([row("red", text="<image> <|image_pad|>")], "2 placeholders for 1 images"),
        ([row("red", images=[], text="Where is the <image>?")], "0 images for 1 <image>"),
        ([row("red", images=[], text="<|image_pad|>")], "1 placeholders for 0 images"),
        ([{**row("red"), "images": [{"bytes": None, "path": "gone.png"}]}], "No such file"),
    ],
)  # fmt: skip
def test_a_bad_image_is_an_error_that_names_file_and_row(pool, rows, message):
    with pytest.raises(DataError, match=message) as error:
        pool(rows)
    assert "squares.parquet, row " in str(error.value)


def test_a_language_model_refuses_prompts_with_images(pool, tiny_policy):
    with pytest.raises(DataError, match=r"takes none: give model\.path a vision-language model"):
        pool([row("red")], model=tiny_policy)


def test_images_may_lie_beside_the_parquet_file(pool, tmp_path):
    (tmp_path / "a.png").write_bytes(square("red"))
    made = pool([{**row("red"), "images": [{"bytes": None, "path": "a.png"}]}])
    assert requests(made)[0].images == (square("red"),)
