"""Images of all the formats that users have, and files that are not images."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from regularization.data import image_files
from regularization.data.image_files import DecodeError
from regularization.data.image_search import search
from regularization.data.preprocess import square

RED, BLUE = (200, 30, 20), (10, 40, 220)


def halves(width: int = 60, height: int = 40) -> Image.Image:
    """An image whose upper half is red and whose lower half is blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image


def colours(image: Tensor | DecodeError) -> tuple[list[int], list[int]]:
    """The colours in the middle of the upper and of the lower half."""
    assert isinstance(image, Tensor), image
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.uint8
    return image[:, 8, 16].tolist(), image[:, 24, 16].tolist()


def is_close(colour: list[int], expected: tuple[int, ...], tolerance: int = 6) -> bool:
    return all(abs(value - reference) <= tolerance for value, reference in zip(colour, expected, strict=True))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tiff", "a.ppm", "ä b 猫.jpg"])
def test_formats(name: str) -> None:
    halves().save(name)
    above, below = colours(image_files.read(Path(name), 32))
    assert is_close(above, RED)
    assert is_close(below, BLUE)


def test_cmyk_palette_and_transparency() -> None:
    halves().convert("CMYK").save("cmyk.jpg", quality=95)
    halves().convert("P", palette=Image.Palette.ADAPTIVE).save("palette.png")
    # Blue is transparent here: it becomes white.
    keyed = halves().convert("P", palette=Image.Palette.ADAPTIVE)
    keyed.save("keyed.png", transparency=keyed.getpixel((0, 39)))
    clear = halves().convert("RGBA")
    clear.paste((10, 40, 220, 0), (0, 20, 60, 40))
    clear.save("clear.png")
    for name in ("cmyk.jpg", "palette.png"):
        above, below = colours(image_files.read(Path(name), 32))
        assert is_close(above, RED, tolerance=20), name
        assert is_close(below, BLUE, tolerance=20), name
    for name in ("keyed.png", "clear.png"):
        above, below = colours(image_files.read(Path(name), 32))
        assert is_close(above, RED), name
        assert below == [255, 255, 255], name


def test_grey_values_of_8_and_16_bits_are_equal() -> None:
    ramp = np.linspace(0, 255, 32 * 32).astype(np.uint8).reshape(32, 32)
    Image.fromarray(ramp).save("8.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save("16.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save("16.tiff")
    expected = torch.from_numpy(ramp).expand(3, -1, -1)
    for name in ("8.png", "16.png", "16.tiff"):
        image = image_files.read(Path(name), 32)
        assert isinstance(image, Tensor)
        assert torch.equal(image, expected), name
    Image.fromarray(ramp.astype(np.float32)).save("float.tiff")
    error = image_files.read(Path("float.tiff"), 32)
    assert isinstance(error, DecodeError)
    assert error.reason == "grey values of 32 bits are not supported: the value of white is not defined"


def test_images_are_rotated_by_their_exif_data() -> None:
    image = halves(40, 40)
    exif = Image.Exif()
    exif[0x0112] = 3  # the orientation: upside down
    image.save("turned.jpg", exif=exif)
    above, below = colours(image_files.read(Path("turned.jpg"), 32))
    assert is_close(above, BLUE)
    assert is_close(below, RED)


def test_the_first_frame_of_an_animation_is_read() -> None:
    halves().save("moving.gif", save_all=True, append_images=[Image.new("RGB", (60, 40), (0, 255, 0))])
    above, below = colours(image_files.read(Path("moving.gif"), 32))
    assert is_close(above, RED)
    assert is_close(below, BLUE)


def test_unreadable_files_have_a_reason() -> None:
    halves(400, 300).save("whole.jpg")
    whole = Path("whole.jpg").read_bytes()
    Path("cut.jpg").write_bytes(whole[: len(whole) // 2])
    Path("text.png").write_text("not an image")
    Path("empty.png").touch()
    Path("bomb.png").write_bytes(bomb(30_000, 30_000))
    Image.new("RGB", (1, 60_000)).save("long.png")
    reasons = {
        "cut.jpg": "truncated",
        "text.png": "not an image, or of an unsupported format",
        "empty.png": "not an image, or of an unsupported format",
        "bomb.png": "more than 179 million pixels",
        "long.png": "too long for its width",
        "absent.png": "No such file",
    }
    for name, reason in reasons.items():
        error = image_files.read(Path(name), 64)
        assert isinstance(error, DecodeError), name
        assert reason in error.reason
        assert str(error).startswith(f"{name}: ")
        assert "\n" not in str(error)


def bomb(width: int, height: int) -> bytes:
    """A small PNG file whose header claims this many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20, 20), (300, 200), (61, 75), (4000, 3000)])
def test_read_equals_the_resize_of_the_network(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save("noise.bmp")
    image = image_files.read(Path("noise.bmp"), 48)
    assert isinstance(image, Tensor)
    assert torch.equal(image.float(), square(pixels.movedim(-1, 0)[None], 48)[0])


def test_images_are_found_in_folders_in_order() -> None:
    for name in ("b/2.png", "b/1.PNG", "a.jpg", ".hidden/x.png", "b/.y.png", "b/readme.txt", "b/page.pdf"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert search(Path()).paths == [Path("a.jpg"), Path("b/1.PNG"), Path("b/2.png")]


def test_many_images_are_read_in_order() -> None:
    for number in range(70):
        Image.new("RGB", (10, 10), (number, 0, 0)).save(f"{number}.png")
    paths = [Path(f"{number}.png") for number in range(70)]
    paths[30] = Path("absent.png")
    results = list(image_files.read_all(paths, 10, "reading"))
    assert isinstance(results[30], DecodeError)
    numbers = [int(image[0, 0, 0]) for image in results if isinstance(image, Tensor)]
    assert numbers == [number for number in range(70) if number != 30]
