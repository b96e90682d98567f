"""The command ``predict``: its table, its contact sheet, and files that are not images."""

import csv
import shutil
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from regularization.cli.main import main
from regularization.data.readers import read_digits
from regularization.inference.prediction import Prediction, predict_files
from regularization.inference.trained_model import TrainedModel
from tests.data.test_image_files import bomb
from tests.training.test_command import QUICK, RUN, Refused


def test_predict(digits: TrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    images = read_digits(train=False)
    Path("mine/inner").mkdir(parents=True)
    for index in range(30):
        pixels = images.pixels[index].movedim(0, -1).numpy()
        name = f"mine/{'inner/' if index % 2 else ''}{index:02d} ziffer ü{int(images.labels[index])}.png"
        Image.fromarray(pixels).save(name)
    Path("mine/text.png").write_text("not an image")
    Path("mine/bomb.png").write_bytes(bomb(30_000, 30_000))
    capsys.readouterr()
    main(["predict", "--ckpt_path", str(RUN / "checkpoints" / "best.ckpt"), "--images", "mine", "mine/text.png"])
    output = capsys.readouterr()
    assert "skipped: mine/text.png: not an image, or of an unsupported format" in output.err
    assert "skipped: mine/bomb.png: more than 179 million pixels" in output.err
    assert len(output.err.splitlines()) == 2
    lines = output.out.splitlines()
    assert lines[10] == "… and 20 more"
    assert lines[11:] == ["30 images classified, 2 skipped", "predictions.csv", "predictions.png", "skipped.csv"]
    with Path("predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    probabilities = digits(images.pixels[:30])
    assert list(rows[0])[:5] == ["file", "class", "probability", "class_2", "probability_2"]
    for row in rows:
        top = probabilities[int(Path(row["file"]).name[:2])].topk(5)
        assert [row["class"], *(row[f"class_{rank}"] for rank in range(2, 6))] == [str(int(i)) for i in top.indices]
        assert float(row["probability"]) == pytest.approx(float(top.values[0]), abs=1e-4)
    with Image.open("predictions.png") as sheet:
        assert sheet.size[0] > 1000


# What Pillow writes by default for an RGB image, and the suffixes of its further formats.
WRITTEN = sorted({suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE})


def broken_files(folder: Path) -> None:
    """Twenty files that cannot be read, for different reasons."""
    whole = BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(whole, "PNG")
    png = whole.getvalue()
    cut = {f"cut {size}.png": png[:size] for size in (0, 1, 8, 30, 60, len(png) // 2, len(png) - 30)}
    zeros = {f"zeros{suffix}": bytes(500) for suffix in (".jpg", ".gif", ".bmp", ".tiff", ".webp", ".ico", ".pcx")}
    others = {"text.jpeg": b"not an image", "bomb.png": bomb(30_000, 30_000), "letter.heic": b"ftypheic" * 9}
    for name, content in {**cut, **zeros, **others}.items():
        (folder / name).write_bytes(content)
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "nothing").touch()
    (folder / "a folder.png").mkdir()
    (folder / "a folder.png" / "half.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(30))


def test_every_file_of_a_folder_is_accounted_for_by_name(
    tiny_model: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("all")
    folder.mkdir()
    for suffix in WRITTEN:
        with suppress(OSError, ValueError, KeyError):  # formats of other modes, or without an encoder
            Image.new("RGB", (20, 16), "red").save(folder / f"picture{suffix}")
    written = {path.name for path in folder.iterdir() if path.stat().st_size}
    assert len(written) > 30
    for path in set(folder.iterdir()) - {folder / name for name in written}:
        path.unlink()
    broken_files(folder)
    assert len(everything := [path for path in folder.rglob("*") if not path.is_dir()]) == len(written) + 20
    predict_files(tiny_model, [folder, Path("all/../all"), folder / "picture.png"], Path("out"))
    named = {}
    for table in ("predictions.csv", "skipped.csv"):
        with Path("out", table).open(newline="", encoding="utf-8") as file:
            named[table] = [Path(row["file"]).relative_to("all") for row in csv.DictReader(file)]
    read = {str(path) for path in named["predictions.csv"]}
    assert sorted(named["predictions.csv"] + named["skipped.csv"]) == sorted(p.relative_to("all") for p in everything)
    assert read <= written
    formats = {"png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "ppm", "jp2", "tga", "pcx", "ico", "dib"}
    assert {f"picture.{name}" for name in formats} <= read
    assert f"{len(read)} images classified, {len(named['skipped.csv'])} skipped" in capsys.readouterr().out
    # The next prediction does not classify the files of this one. Without skipped files, their table is removed.
    shutil.copy("all/picture.png", "out/picture.png")
    predict_files(tiny_model, [Path("out")], Path("out"))
    assert sorted(path.name for path in Path("out").iterdir()) == ["picture.png", "predictions.csv", "predictions.png"]


def test_what_predict_refuses(digits: TrainedModel, refused: Refused) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("not an image")
    run = ["predict", "--ckpt_path", str(RUN), "--images"]
    assert "there is no nowhere" in refused(*run, "nowhere")
    assert "there are no images in empty" in refused(*run, "empty")
    Path("empty/notes.txt").touch()
    assert "in empty; left out: 1 .txt file (not a supported image format)" in refused(*run, "empty")
    with pytest.raises(SystemExit):
        main([*run, "text.png"])
    assert "--output: text.png is a file, not a folder" in refused(*run, "text.png", "--output", "text.png")
    assert "ckpt_path" in refused("predict", "--images", "text.png")


def test_names_of_files_and_classes_cannot_control_the_terminal_or_the_table(
    digits: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["\x1b[2Jclear.png", "two\rrows.png", "=cmd|'C calc'!A0.png", "gone\x1b[1A.png"]
    for name in names[:3]:
        Image.new("RGB", (8, 8)).save(name)
    Path(names[3]).write_text("not an image")
    checkpoint = torch.load(RUN / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["serving"]["classes"] = ["\x1b]0;title\x07", "a\rb", "=1+1", "\ud800", *"456789"]
    torch.save(checkpoint, "evil\x1b[7m.ckpt")
    capsys.readouterr()
    main(["predict", "--ckpt_path", "evil\x1b[7m.ckpt", "--images", *names])
    main(["test", *QUICK, "--ckpt_path", "evil\x1b[7m.ckpt", "--preprocess", "config"])
    with pytest.raises(SystemExit):
        main(["predict", "--ckpt_path", "absent\x1b[7m", "--images", *names])
    output = capsys.readouterr()
    text = (output.out + output.err).replace("\n", "")
    assert text.isprintable()
    assert r"evil\x1b[7m.ckpt is not in a run folder" in text
    assert r"absent\x1b[7m" in text
    with Path("predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert sorted(row[0] for row in rows[1:]) == [r"'=cmd|'C calc'!A0.png", r"\x1b[2Jclear.png", r"two\rrows.png"]
    assert {len(row) for row in rows} == {11}
    assert not any(cell.startswith("=") for row in rows for cell in row)
    classes = {cell for row in rows[1:] for cell in row[1::2]}
    assert classes <= {r"\x1b]0;title\x07", r"a\rb", "'=1+1", r"\ud800", *"456789"}


def test_caption_of_a_long_file_name() -> None:
    prediction = Prediction(Path("folder/a photo of a very small dog.jpeg"), ("dog", "cat"), (0.876, 0.124))
    assert prediction.caption == "a photo of …l dog.jpeg\ndog 88%"
