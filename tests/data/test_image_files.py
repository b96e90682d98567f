"""Pictures of every kind that people have, and files that only say they are pictures."""

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
from regularization.data.preprocess import square

RED, BLUE = (200, 30, 20), (10, 40, 220)


def halves(width: int = 60, height: int = 40) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image


def colours(picture: Tensor | DecodeError) -> tuple[list[int], list[int]]:
    """In the middle of the upper and of the lower half."""
    assert isinstance(picture, Tensor), picture
    assert picture.shape == (3, 32, 32)
    assert picture.dtype == torch.uint8
    return picture[:, 8, 16].tolist(), picture[:, 24, 16].tolist()


def near(found: list[int], wanted: tuple[int, ...], by: int = 6) -> bool:
    return all(abs(one - other) <= by for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tiff", "a.ppm", "ä b 猫.jpg"])
def test_formats(name: str) -> None:
    halves().save(name)
    above, below = colours(image_files.read(Path(name), 32))
    assert near(above, RED)
    assert near(below, BLUE)


def test_cmyk_palette_and_transparency() -> None:
    halves().convert("CMYK").save("cmyk.jpg", quality=95)
    halves().convert("P", palette=Image.Palette.ADAPTIVE).save("palette.png")
    # Blue is what is transparent: white shows through.
    keyed = halves().convert("P", palette=Image.Palette.ADAPTIVE)
    keyed.save("keyed.png", transparency=keyed.getpixel((0, 39)))
    clear = halves().convert("RGBA")
    clear.paste((10, 40, 220, 0), (0, 20, 60, 40))
    clear.save("clear.png")
    for name in ("cmyk.jpg", "palette.png"):
        above, below = colours(image_files.read(Path(name), 32))
        assert near(above, RED, by=20), name
        assert near(below, BLUE, by=20), name
    for name in ("keyed.png", "clear.png"):
        above, below = colours(image_files.read(Path(name), 32))
        assert near(above, RED), name
        assert below == [255, 255, 255], name


def test_grey_of_8_and_16_bits_is_the_same() -> None:
    ramp = np.linspace(0, 255, 32 * 32).astype(np.uint8).reshape(32, 32)
    Image.fromarray(ramp).save("8.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save("16.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save("16.tiff")
    expected = torch.from_numpy(ramp).expand(3, -1, -1)
    for name in ("8.png", "16.png", "16.tiff"):
        found = image_files.read(Path(name), 32)
        assert isinstance(found, Tensor)
        assert torch.equal(found, expected), name
    Image.fromarray(ramp.astype(np.float32)).save("float.tiff")
    found = image_files.read(Path("float.tiff"), 32)
    assert isinstance(found, DecodeError)
    assert "32 bits" in found.reason


def test_turned_by_exif() -> None:
    image = halves(40, 40)
    exif = Image.Exif()
    exif[0x0112] = 3  # lies upside down
    image.save("turned.jpg", exif=exif)
    above, below = colours(image_files.read(Path("turned.jpg"), 32))
    assert near(above, BLUE)
    assert near(below, RED)


def test_an_animation_is_its_first_frame() -> None:
    halves().save("moving.gif", save_all=True, append_images=[Image.new("RGB", (60, 40), (0, 255, 0))])
    above, below = colours(image_files.read(Path("moving.gif"), 32))
    assert near(above, RED)
    assert near(below, BLUE)


def test_refused_with_the_reason() -> None:
    halves(400, 300).save("whole.jpg")
    whole = Path("whole.jpg").read_bytes()
    Path("cut.jpg").write_bytes(whole[: len(whole) // 2])
    Path("text.png").write_text("I am no picture")
    Path("empty.png").touch()
    Path("bomb.png").write_bytes(bomb(30_000, 30_000))
    Image.new("RGB", (1, 60_000)).save("long.png")
    reasons = {
        "cut.jpg": "truncated",
        "text.png": "not a picture",
        "empty.png": "not a picture",
        "bomb.png": "more than 179 million pixels",
        "long.png": "too long for its width",
        "absent.png": "No such file",
    }
    for name, reason in reasons.items():
        found = image_files.read(Path(name), 64)
        assert isinstance(found, DecodeError), name
        assert reason in found.reason
        assert str(found).startswith(f"{name}: ")
        assert "\n" not in str(found)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it has this many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20, 20), (300, 200), (61, 75), (4000, 3000)])
def test_read_is_what_the_network_would_have_made(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save("noise.bmp")
    found = image_files.read(Path("noise.bmp"), 48)
    assert isinstance(found, Tensor)
    assert torch.equal(found.float(), square(pixels.movedim(-1, 0)[None], 48)[0])


def test_found_in_folders_in_order() -> None:
    for name in ("b/2.png", "b/1.PNG", "a.jpg", ".hidden/x.png", "b/.y.png", "b/readme.txt", "b/page.pdf"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert image_files.find(Path()) == [Path("a.jpg"), Path("b/1.PNG"), Path("b/2.png")]


def test_all_in_their_order() -> None:
    for place in range(70):
        Image.new("RGB", (10, 10), (place, 0, 0)).save(f"{place}.png")
    paths = [Path(f"{place}.png") for place in range(70)]
    paths[30] = Path("absent.png")
    found = list(image_files.read_all(paths, 10, "reading"))
    assert isinstance(found[30], DecodeError)
    seen = [int(one[0, 0, 0]) for one in found if isinstance(one, Tensor)]
    assert seen == [place for place in range(70) if place != 30]
