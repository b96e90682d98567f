"""One's own pictures: which are for what, kept in memory or decoded by worker processes, and what is refused."""

import csv
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from regularization import ImageFolder, UserError
from regularization.cli.main import main
from regularization.data.datamodules import Part
from regularization.data.image_files import ImageFiles
from regularization.data.image_folder import held_out
from regularization.data.readers import Images
from regularization.data.sampling import Batch
from tests.conftest import CONFIGS, rows_of
from tests.training.test_command import interrupt_at

Refused = Callable[..., str]
SIZES = [(20, 20), (64, 48), (30, 90), (300, 200), (100, 100)]
SMALL = ["--config", str(CONFIGS / "folder.yaml"), "--data.image_size", "16", "--model.network.width", "4"]
SMALL += ["--trainer.max_epochs", "2", "--data.batch_size", "8"]


def draw(root: Path, counts: dict[str, int]) -> None:
    """Pictures of many sizes; the mean colour of each says which one it is."""
    generator = np.random.default_rng(0)
    for place, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            width, height = SIZES[number % len(SIZES)]
            pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
            pixels[..., place % 3] += 100
            Image.fromarray(pixels).save(root / name / f"{number:02d} ä.png")


def files(part: Part | None) -> set[bytes]:
    assert part is not None
    images, subset = part
    return {images[subset[place : place + 1]][0].numpy().tobytes() for place in range(len(subset))}


def made(stage: str = "fit", **options: Any) -> ImageFolder:
    data = ImageFolder(root="pets", image_size=16, val_size=0.25, **options)
    data.setup(stage)
    return data


def test_one_folder_is_shared_out() -> None:
    draw(Path("pets"), {"cat": 20, "dog": 30, "owl": 10})
    data = made()
    data.setup("test")
    assert data.num_classes == 3
    parts = [data.train_set, data.val_set, data.test_set]
    sizes = [len(part[1]) for part in parts if part]
    assert sum(sizes) == 60
    assert 6 <= sizes[2] <= 18  # a fifth, by a hash
    assert sizes[1] == math.ceil((60 - sizes[2]) / 4)
    assert not files(parts[0]) & files(parts[1])
    assert not files(parts[0]) & files(parts[2])
    for part in parts:
        assert part is not None
        assert set(part[0].labels[part[1]].tolist()) == {0, 1, 2}
    again = made("test", split_seed=7)
    assert files(again.test_set) == files(data.test_set)
    assert data.inference_config() == {
        "classes": ["cat", "dog", "owl"],
        "preprocess": {"size": 16, "resize": 18, "mean": [0.5] * 3, "std": [0.5] * 3},
    }


@given(some.lists(some.text(min_size=1), min_size=40, max_size=200, unique=True), some.integers(0, 30))
def test_a_picture_stays_on_its_side(names: list[str], gone: int) -> None:
    labels = torch.arange(len(names)) % 2
    before = held_out(names, labels, 0.3)
    after = held_out(names[gone:], labels[gone:], 0.3)
    # But for the one of each class that is held out, or kept, lest there be none.
    assert int((before[gone:] != after).sum()) <= 4
    assert 0 < int(after[labels[gone:] == 0].sum()) < int((labels[gone:] == 0).sum())


def test_the_share_that_is_held_out() -> None:
    held = held_out([str(place) for place in range(10_000)], torch.zeros(10_000, dtype=torch.int64), 0.2)
    # Binomial: a standard deviation of 40.
    assert 1_850 < int(held.sum()) < 2_150


def test_without_validation_everything_is_trained_on() -> None:
    draw(Path("pets/train"), {"cat": 8, "dog": 8})
    draw(Path("pets/val"), {"cat": 3, "dog": 2})
    draw(Path("pets/test"), {"cat": 4, "dog": 4})
    data = ImageFolder(root="pets", image_size=16, val_size=0)
    with pytest.warns(UserWarning, match="no longer a test"):
        data.setup("fit")
    assert data.train_set is not None
    assert len(data.train_set[1]) == 21


def test_a_class_may_be_called_train() -> None:
    draw(Path("pets"), {"plane": 8, "train": 8})
    assert made().num_classes == 2


@pytest.mark.parametrize("stop", [2, 4], ids=["after an epoch", "within one"])
def test_streamed_training_goes_on_with_the_same_bits(stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Path("pets"), {"cat": 16, "dog": 16})
    streamed = ["fit", *SMALL, "--data.root", "pets", "--data.memory_gb", "0", "--data.workers", "1"]
    main([*streamed, "--trainer.max_epochs", "3"])
    with monkeypatch.context() as patch:
        interrupt_at(stop, patch)
        with pytest.raises(SystemExit):
            main([*streamed, "--trainer.max_epochs", "3"])
    main([*streamed, "--trainer.max_epochs", "3", "--ckpt_path", "last"])
    whole, parted = (
        torch.load(Path("runs/folder") / version / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for version in ("version_0", "version_1")
    )
    assert all(torch.equal(tensor, parted[name]) for name, tensor in whole.items())


def test_other_pictures_than_the_checkpoints_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("pets"), {"cat": 12, "dog": 12})
    main(["fit", *SMALL, "--data.root", "pets", "--trainer.max_epochs", "1"])
    draw(Path("pets"), {"cat": 12, "dog": 16})
    main(["fit", *SMALL, "--data.root", "pets", "--ckpt_path", "last"])
    assert "warning: the training images are not the checkpoint's" in capsys.readouterr().err


def test_a_picture_that_is_gone_is_said_in_a_line() -> None:
    draw(Path("pets"), {"cat": 12, "dog": 12})
    data = made(memory_gb=0.0, workers=1)
    for path in Path("pets/cat").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"^a picture can't be read any more: pets/cat/\d\d ä.png: No such file"):
        list(data.train_dataloader())


def test_folders_of_their_own() -> None:
    draw(Path("pets/train"), {"cat": 8, "dog": 8})
    draw(Path("pets/val"), {"cat": 3, "dog": 2})
    draw(Path("pets/test"), {"cat": 4, "dog": 4})
    data = made()
    data.setup("test")
    assert [len(part[1]) for part in (data.train_set, data.val_set, data.test_set) if part] == [16, 5, 8]
    Path("pets/test/lynx").mkdir()
    with pytest.raises(UserError, match="pets/test/lynx: there is no class lynx among the training pictures"):
        made("test")


def test_in_memory_and_from_files_are_the_same() -> None:
    draw(Path("pets"), {"cat": 12, "dog": 12})
    kept, streamed = made(), made(memory_gb=0.0, workers=2)
    assert kept.train_set is not None
    assert streamed.train_set is not None
    assert isinstance(kept.train_set[0], Images)
    assert isinstance(streamed.train_set[0], ImageFiles)
    assert "decoded for every batch by 2" in streamed.describe()
    for one, other in zip(kept.train_dataloader(), streamed.train_dataloader(), strict=True):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one[:3], other[:3], strict=True))


def test_a_picture_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Path("pets"), {"cat": 6, "dog": 6})
    made()
    with monkeypatch.context() as patch:
        patch.setattr("regularization.data.image_files.read_all", None)  # must not be asked again
        made(split_seed=3)
    for path in Path("pets/cat").iterdir():
        Image.new("RGB", (9, 9), (255, 255, 255)).save(path)
    fresh = made()
    assert fresh.train_set is not None
    images, _ = fresh.train_set
    assert any(bool((images[torch.tensor([place])][0] == 255).all()) for place in range(len(images)))


def test_training_cuts_at_random_and_evaluation_in_the_middle() -> None:
    draw(Path("pets"), {"cat": 12, "dog": 12})
    data = made(resize=24, flip=True)
    data.trainer = type("Training", (), {"training": True, "current_epoch": 0})()
    assert data.train_set is not None
    images, subset = data.train_set
    batch = Batch(*images[subset], 1.0)
    inputs = data.on_after_batch_transfer(batch, 0).images
    assert inputs.shape == (len(subset), 3, 16, 16)
    places = set()
    for image, cut in zip(batch[0].float() / 255 * 2 - 1, inputs, strict=True):
        found = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped, window in enumerate((image[:, top : top + 16, left : left + 16],) * 2)
            if torch.allclose(window.flip(-1) if flipped else window, cut, atol=1e-6)
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 8
    data.trainer.training = False
    inputs = data.on_after_batch_transfer(batch, 0).images
    assert torch.allclose(inputs, batch[0][:, :, 4:20, 4:20].float() / 255 * 2 - 1, atol=1e-6)


def test_what_is_refused(refused: Refused) -> None:
    fit = ["fit", *SMALL, "--data.root"]
    assert "there is no folder nowhere" in refused(*fit, "nowhere")
    Path("empty").mkdir()
    assert "must hold a folder for each class, with its pictures in it; it holds none" in refused(*fit, "empty")
    draw(Path("pets"), {"cat": 6})
    assert "it holds only cat" in refused(*fit, "pets")
    Path("pets/dog").mkdir()
    assert "pets/dog has no pictures in it" in refused(*fit, "pets")
    draw(Path("pets"), {"dog": 6})
    Path("pets/dog/letter.png").write_text("no picture")
    whole = Path("pets/cat/03 ä.png").read_bytes()
    Path("pets/cat/half.png").write_bytes(whole[: len(whole) // 2])
    for kept in ("4", "0"):
        message = refused(*fit, "pets", "--data.memory_gb", kept)
        assert "can't be read" in message
        # Whichever part they are in.
        assert "pets/dog/letter.png: not a picture" in message or "pets/cat/half.png: " in message
    Path("pets/dog/letter.png").unlink()
    assert "pets/cat/half.png: " in refused(*fit, "pets")
    sweep = ["sweep", "--config", str(CONFIGS / "sweeps" / "folder.yaml"), "--data.root", "pets"]
    assert "pets/cat/half.png: " in refused(*sweep)
    Path("pets/cat/half.png").unlink()
    assert "there is nothing to test on" in refused(*sweep, "--data.test_size", "0")
    assert "--data.workers must not be negative" in refused(*fit, "pets", "--data.workers", "-1")
    assert "--data.test_size must be at least 0 and below 1" in refused(*fit, "pets", "--data.test_size", "7")
    assert "give both, or neither" in refused(*fit, "pets", "--data.mean", "[0.5,0.5,0.5]")
    Path("parts").mkdir()
    shutil.copytree("pets", "parts/training")
    shutil.copytree("pets", "parts/validation")
    assert "parts of the data are called train, val and test" in refused(*fit, "parts")
    assert "--data.resize must be at least --data.image_size, 16, not 8" in refused(*fit, "pets", "--data.resize", "8")


def test_the_whole_way_on_ones_own_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("my pets"), {"cat": 20, "dog": 20})
    main(["fit", *SMALL, "--data.root", "my pets", "--trainer.max_epochs", "6"])
    run = Path("runs/folder/version_0")
    assert rows_of(run)[-1]["val_accuracy"] > 0.9
    main(["test", *SMALL, "--data.root", "my pets", "--ckpt_path", "best"])
    main(["predict", "--ckpt_path", str(run), "--images", "my pets", "--output", "named"])
    with Path("named/predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = [row["file"].split("/")[1] == row["class"] for row in rows]
    assert len(rows) == 40
    assert sum(right) >= 36
    assert "40 pictures named, 0 refused" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_on_ones_own_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("pets"), {"cat": 20, "dog": 20})
    # Two threads and four filters: in channels_last PyTorch 2.14 would crash.
    small = ["--data.image_size", "16", "--model.network.width", "4", "--trainer.max_epochs", "3", "--threads", "2"]
    main(["sweep", "--config", str(CONFIGS / "sweeps" / "folder.yaml"), "--data.root", "pets", "--seeds", "2", *small])
    out = capsys.readouterr().out
    assert "validation accuracy" in out.splitlines()[-2]
    assert Path("runs/folder/version_0/report.html").is_file()
