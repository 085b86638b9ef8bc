"""Images are taken from their rows as files, and what is not whole is found out."""

from io import BytesIO

import pytest
from PIL import Image

from dps_ray.prompts import image_files
from tests.squares import square


def test_an_entry_is_bytes_or_a_path_or_verls_struct_of_both(tmp_path):
    (tmp_path / "a.png").write_bytes(b"there")

    def read(name):
        return (tmp_path / name).read_bytes()

    for entry in (b"there", "a.png", {"bytes": b"there", "path": "gone.png"}):
        assert image_files.encoded(entry, read) == b"there"
    assert image_files.encoded({"bytes": None, "path": "a.png"}, read) == b"there"


@pytest.mark.parametrize("entry", [{"bytes": None, "path": None}, None, 7, "gone.png"], ids=repr)
def test_an_entry_without_a_file_is_an_error(tmp_path, entry):
    with pytest.raises(ValueError, match=r"neither bytes nor a path|No such file"):
        image_files.encoded(entry, lambda name: (tmp_path / name).read_bytes())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_size_and_content_are_those_of_the_image(kind):
    file = square("red", 90, 60, kind)
    assert image_files.size(file) == (60, 90)
    image_files.check(file)
    image = image_files.decode(file)
    assert (image.mode, image.size) == ("RGB", (90, 60))
    red, green, blue = image.getpixel((45, 30))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_file_cut_short_is_found_out(kind):
    file = square("red", 400, 400, kind)
    with pytest.raises(ValueError, match="is no readable image"):
        image_files.check(file[: 2 * len(file) // 3])


def test_a_flipped_byte_in_a_png_is_found_out():
    file = bytearray(square("red", 400, 400))
    file[len(file) // 2] ^= 1
    with pytest.raises(ValueError, match="is no readable image"):
        image_files.check(bytes(file))


@pytest.mark.parametrize("file", [b"", b"png", b"\x89PNG\r\n\x1a\n"], ids=repr)
def test_what_is_no_image_has_no_size(file):
    with pytest.raises(ValueError, match="is no readable image"):
        image_files.size(file)


def test_what_is_transparent_lies_on_white():
    file = BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(file, "PNG")
    assert image_files.decode(file.getvalue()).getpixel((0, 0)) == (255, 255, 255)
