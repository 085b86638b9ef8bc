"""Geometry with pictures: figures whose answers are exact, and a user's pictures, checked."""

import json
import math
import re
from collections import Counter
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dps_ray.prompts.dataset import PromptTable
from pipelines.data.prepare.drawing import PIXELS, Drawing
from pipelines.data.prepare.exact import number, root
from pipelines.data.prepare.figures import KINDS
from pipelines.prepare import main


def read(file: Path) -> list:
    table = PromptTable.open(file)
    return table.rows(table.ids)


def picture(kind: str = "PNG", size: tuple[int, int] = (20, 10), colour: str = "red") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def value(latex: str) -> float:
    """What an answer comes to, by the few rules of LaTeX that answers use."""
    text = re.sub(r"(\d?)\\pi", lambda found: f"{found[1] or 1}*pi", latex)
    text = re.sub(r"\\sqrt\{(\d+)\}", r"*sqrt(\1)", text)
    text = re.sub(r"\\frac\{([^}]*)\}\{(\d+)\}", r"((\1)/\2)", text)
    return eval(re.sub(r"^\*", "1*", text), {"pi": math.pi, "sqrt": math.sqrt})


# Figures


@pytest.mark.parametrize(
    ("kind", "numbers", "answer"),
    [
        ("hypotenuse", (3, 4), "5"),
        ("hypotenuse", (2, 2), r"2\sqrt{2}"),
        ("leg", (5, 13), "12"),
        ("leg", (2, 4), r"2\sqrt{3}"),
        ("third angle", (50, 60), "70"),
        ("base angle", (45,), r"\frac{135}{2}"),
        ("exterior angle", (50, 60), "120"),
        ("triangle area", (5, 3), r"\frac{15}{2}"),
        ("parallel in triangle", (2, 3, 4), "6"),
        ("rectangle area", (4, 5), "20"),
        ("rectangle perimeter", (4, 5), "18"),
        ("rectangle side", (4, 10), r"\frac{5}{2}"),
        ("diagonal", (6, 8), "10"),
        ("trapezoid area", (8, 5, 4), "26"),
        ("around circle", (2,), r"4 - \pi"),
        ("around circle", (3,), r"9 - \frac{9\pi}{4}"),
        ("circle area", (4,), r"4\pi"),
        ("circle area", (3,), r"\frac{9\pi}{4}"),
        ("circumference", (7,), r"7\pi"),
        ("sector area", (6, 60), r"6\pi"),
        ("arc length", (3, 60), r"\pi"),
        ("inscribed angle", (81,), r"\frac{81}{2}"),
        ("parallel lines", (70, 0), "70"),
        ("parallel lines", (70, 1), "70"),
        ("parallel lines", (70, 2), "110"),
    ],
)
def test_answers_are_exact(kind, numbers, answer):
    assert KINDS[kind][0](*numbers).answer == answer


def test_every_kind_is_checked_above_and_says_what_to_find():
    marks = test_answers_are_exact.pytestmark[0].args[1]
    assert {kind for kind, _, _ in marks} == set(KINDS)
    for make, numbers in KINDS.values():
        assert "Find" in make(*numbers[0]).question


@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_of_a_kind_are_different_problems(kind):
    make, numbers = KINDS[kind]
    assert len(set(numbers)) == len(numbers) >= 100
    assert all(value(make(*n).answer) > 0 for n in numbers[:: max(1, len(numbers) // 100)])


@pytest.mark.parametrize("square", range(1, 200))
def test_roots_are_simplified_and_right(square):
    assert value(root(square)) == pytest.approx(math.sqrt(square))
    inside = re.search(r"\\sqrt\{(\d+)\}", root(square))
    if inside:
        assert all(int(inside.group(1)) % (n * n) for n in range(2, 15))


def test_multiples_of_a_unit_are_written_as_people_write_them():
    assert [number(Fraction(n, d), r"\pi") for n, d in ((1, 1), (2, 1), (1, 2), (6, 4))] == [
        r"\pi",
        r"2\pi",
        r"\frac{\pi}{2}",
        r"\frac{3\pi}{2}",
    ]


def test_a_picture_is_small_the_same_each_time_and_holds_all_of_the_drawing():
    drawing = Drawing()
    drawing.polygon(0j, 3 + 0j, 3 + 4j)
    drawing.circle(10 + 10j, 2)
    first = drawing.png(30)
    assert first == drawing.png(30) != drawing.png(45)
    image = Image.open(BytesIO(first))
    assert (image.size, image.mode) == ((PIXELS, PIXELS), "RGB")
    dark = image.convert("L").point(lambda p: 255 if p < 128 else 0).getbbox()
    assert dark is not None
    assert all(0.05 * PIXELS < edge < 0.95 * PIXELS for edge in dark)


def test_figures_are_written_as_verl_has_pictures(tmp_path):
    out = ["--out", str(tmp_path / "data"), "--train", "40", "--test", "19"]
    assert main(["geometry", *out]) == 0
    test = read(tmp_path / "data" / "test.parquet")
    assert Counter(p.extra_info["kind"] for p in test) == dict.fromkeys(KINDS, 1)
    for prompt in test:
        assert prompt.data_source == "geometry"
        assert prompt.messages[0]["content"].startswith("<image>")
        (image,) = prompt.images
        assert Image.open(BytesIO(image)).size == (PIXELS, PIXELS)
    shown = [p.images[0] for p in test + read(tmp_path / "data" / "train.parquet")]
    assert len(set(shown)) == 59
    first = [f.read_bytes() for f in sorted((tmp_path / "data").iterdir())]
    assert main(["geometry", *out, "--force"]) == 0
    assert [f.read_bytes() for f in sorted((tmp_path / "data").iterdir())] == first


# A user's pictures


@pytest.fixture
def prepare(tmp_path):
    def run(rows: list[dict], *options: str) -> int:
        file = tmp_path / "mine.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
        return main(
            [
                "geometry",
                "--from",
                str(file),
                "--out",
                str(tmp_path / "out"),
                "--test",
                "1",
                *options,
            ]
        )

    return run


def rows_with(**last) -> list[dict]:
    good = [
        {
            "images": [{"bytes": picture(size=(9, 9 + i)), "path": None}],
            "problem": "<image>Find x.",
            "answer": f"{i}",
        }
        for i in range(4)
    ]
    return [*good, {**good[0], **last}]


def test_geometry3ks_columns_convert(prepare, tmp_path):
    assert prepare(rows_with(answer=r"2 \sqrt { 2 }")) == 0
    prompts = read(tmp_path / "out" / "train.parquet") + read(tmp_path / "out" / "test.parquet")
    assert sorted(p.ground_truth for p in prompts) == ["0", "1", "2", r"2 \sqrt { 2 }", "3"]
    for prompt in prompts:
        assert prompt.messages[0]["content"].startswith("<image>Find x. ")
        assert prompt.messages[0]["content"].count("<image>") == 1
        assert Image.open(BytesIO(prompt.images[0])).width == 9


def test_prompts_of_the_same_words_and_different_pictures_are_all_kept(prepare, tmp_path):
    assert prepare(rows_with()[:4]) == 0
    assert len(read(tmp_path / "out" / "train.parquet")) == 3


def test_pictures_that_have_no_place_come_first(prepare, tmp_path):
    rows = [{**row, "problem": "Find x."} for row in rows_with()]
    rows = [{**row, "images": row["images"] * 2} for row in rows]
    assert prepare(rows) == 0
    for prompt in read(tmp_path / "out" / "train.parquet"):
        assert prompt.messages[0]["content"].startswith("<image><image>Find x. ")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_png_and_jpeg_stay_as_they_are_and_others_become_png(kind, prepare, tmp_path):
    given = picture(kind)
    rows = [{"image": given, "question": f"q{i}", "answer": "1"} for i in range(3)]
    assert prepare(rows) == 0
    written = read(tmp_path / "out" / "test.parquet")[0].images[0]
    assert (written == given) == (kind in ("PNG", "JPEG"))
    assert Image.open(BytesIO(written)).format in ("PNG", "JPEG")


def test_pictures_may_be_files_beside_the_users(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(picture())
    rows = [{"images": ["figures/a.png"], "problem": f"p{i}", "answer": "1"} for i in range(3)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    command = ["geometry", "--from", str(tmp_path / "mine.json"), "--test", "1", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 0
    assert read(tmp_path / "out" / "test.parquet")[0].images[0] == picture()


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            {"images": [{"bytes": b"no picture", "path": None}]},
            "row 4, column 'images': is no picture",
        ),
        (
            {"images": [{"bytes": picture(size=(300, 300))[:500], "path": None}]},
            "row 4, column 'images': is no picture",
        ),
        (
            {"images": [{"bytes": b"", "path": None}]},
            "row 4, column 'images': is 'None'; write an encoded",
        ),
        (
            {"images": [{"bytes": None, "path": "gone.png"}]},
            "gone.png cannot be read: No such file",
        ),
        ({"images": []}, "row 4, column 'images': has no picture"),
        ({"images": None}, "row 4, column 'images': has no picture"),
        ({"answer": None}, "row 4, column 'answer': has no answer"),
        ({"problem": None}, "row 4, column 'problem': is 'None', no text"),
        (
            {"problem": "<image><image> Find x."},
            "row 4, column 'problem': has 2 <image> for 1 pictures",
        ),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left(last, said, prepare, tmp_path, capsys):
    assert prepare(rows_with(**last)) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "mine.parquet") in message
    assert said in message
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.parquet"]


def test_a_file_without_pictures_is_an_error_that_names_the_columns(prepare, capsys):
    assert prepare([{"problem": "p", "answer": "1"}] * 3) == 2
    assert "has no column 'images' or 'image' (it has: problem, answer)" in capsys.readouterr().err
