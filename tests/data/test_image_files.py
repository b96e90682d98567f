"""Images of all the formats that users have, and files that are not images."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor

from regularization.data import image_files, image_search
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
    Path("16.pgm").write_bytes(b"P5 32 32 65535\n" + (ramp.astype(">u2") * 257).tobytes())
    Path("12.pgm").write_bytes(b"P5 32 32 4095\n" + (ramp.astype(">u2") * 16 + 8).astype(">u2").tobytes())
    Image.fromarray((255 - ramp.astype(np.uint16)) * 257).save("white is zero.tiff", tiffinfo={262: 0})
    expected = torch.from_numpy(ramp).expand(3, -1, -1)
    for name in ("8.png", "16.png", "16.tiff", "16.pgm", "12.pgm", "white is zero.tiff"):
        image = image_files.read(Path(name), 32)
        assert isinstance(image, Tensor)
        assert torch.equal(image, expected), name
    Image.fromarray(ramp.astype(np.float32)).save("float.tiff")
    error = image_files.read(Path("float.tiff"), 32)
    assert isinstance(error, DecodeError)
    assert error.reason == "grey values of 32 bits are not supported: the value of white is not defined"
    for name, dtype in {"signed 16.tiff": np.uint16, "signed 8.tiff": np.uint8}.items():
        Image.fromarray(ramp.astype(dtype)).save(name, tiffinfo={339: 2})
        error = image_files.read(Path(name), 32)
        assert isinstance(error, DecodeError)
        assert error.reason == "signed values are not supported: the values of black and white are not defined"


def test_images_of_iphones() -> None:
    heif = pytest.importorskip("pillow_heif", reason="reads HEIC: pip install 'regularization[heif]'")
    assert ".heic" in image_search.suffixes()
    exif = Image.Exif()
    exif[0x0112] = 3  # the orientation: upside down
    heif.from_pillow(halves(64, 64)).save("a.heic", quality=90)
    halves(64, 64).save("turned.heic", format="HEIF", quality=90, exif=exif.tobytes())
    above, below = colours(image_files.read(Path("a.heic"), 32))
    assert is_close(above, RED, tolerance=10)
    assert is_close(below, BLUE, tolerance=10)
    assert colours(image_files.read(Path("turned.heic"), 32))[0] == pytest.approx(below, abs=6)
    assert search(Path()).paths == [Path("a.heic"), Path("turned.heic")]


def test_images_that_need_a_package_are_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.heic", "b.HEIC", "c.jxl", "d.png"):
        Path(name).touch()
    monkeypatch.setattr(image_search, "suffixes", lambda: {".png"})
    result = search(Path())
    assert result.paths == [Path("d.png")]
    assert image_search.summarize(result.left_out) == (
        "left out: 2 .heic files (pip install 'regularization[heif]' to read them), "
        "1 .jxl file (not a supported image format)"
    )
    monkeypatch.setattr(image_search, "formats", lambda: ["PNG"])
    monkeypatch.setattr(image_files, "formats", lambda: ["PNG"])
    error = image_files.read(Path("a.heic"), 32)
    assert isinstance(error, DecodeError)
    assert error.reason == "pip install 'regularization[heif]' to read them"


def icc_profile(*colorants: tuple[float, float, float], gamma: float) -> bytes:
    """A matrix profile (ICC.1:2001) whose channels are these colorants, in XYZ under D50, with one gamma."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\5test\0" + bytes(79), b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    tags |= {name: xyz(values) for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, content = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    header = struct.pack(">I4sI4s4s4s12s4s", 0, b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp")
    header += bytes(28) + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    whole = header.ljust(128, b"\0") + table + content
    return struct.pack(">I", len(whole)) + whole[4:]


def test_colour_profiles_are_converted_to_srgb() -> None:
    # The primaries of sRGB under D50, red and blue exchanged, with a gamma of 1.8.
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    profile = icc_profile(blue, green, red, gamma=1.8)
    linear = (np.array(RED[::-1]) / 255) ** 1.8
    expected = 255 * np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    halves().save("rgb.png", icc_profile=profile)
    halves().convert("RGBA").save("rgba.png", icc_profile=profile)
    halves().convert("P", palette=Image.Palette.ADAPTIVE).save("palette.png", icc_profile=profile)
    for name in ("rgb.png", "rgba.png", "palette.png"):
        above, _ = colours(image_files.read(Path(name), 32))
        assert is_close(above, tuple(expected), tolerance=2), name
    # A profile that is damaged, or of another kind of image, changes nothing.
    halves().save("damaged.png", icc_profile=profile[:200])
    halves().convert("L").save("grey.png", icc_profile=profile)
    halves().save("srgb.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert colours(image_files.read(Path("damaged.png"), 32))[0] == list(RED)
    assert colours(image_files.read(Path("srgb.png"), 32))[0] == list(RED)
    assert colours(image_files.read(Path("grey.png"), 32))[0] == [halves().convert("L").getpixel((0, 0))] * 3


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
