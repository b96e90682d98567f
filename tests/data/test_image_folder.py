"""The user's own images: how they are split, kept in memory or decoded by workers, and the errors that can occur."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from regularization import ImageClassifier, ImageFolder, SmallResNet, UserError
from regularization.cli.main import main
from regularization.data.image_data import Part
from regularization.data.image_files import ImageFiles
from regularization.data.image_folder import held_out
from regularization.data.readers import Images
from regularization.data.sampling import Batch, EpochSampler, as_batch
from tests.conftest import CONFIGS, rows_of
from tests.training.test_command import interrupt_at

Refused = Callable[..., str]
SIZES = [(20, 20), (64, 48), (30, 90), (300, 200), (100, 100)]
SMALL = ["--config", str(CONFIGS / "folder.yaml"), "--data.image_size", "16", "--model.network.width", "4"]
SMALL += ["--trainer.max_epochs", "2", "--data.batch_size", "8"]


def draw(root: Path, counts: dict[str, int]) -> None:
    """Writes images of many sizes; the brightest channel indicates the class, and no two images are equal."""
    generator = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            width, height = SIZES[number % len(SIZES)]
            pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
            pixels[..., label % 3] += 100
            Image.fromarray(pixels).save(root / name / f"{number:02d} ä.png")


def contents(part: Part | None) -> set[bytes]:
    assert part is not None
    images, subset = part
    return {images[subset[position : position + 1]][0].numpy().tobytes() for position in range(len(subset))}


def set_up(stage: str = "fit", **options: Any) -> ImageFolder:
    data = ImageFolder(root="pets", image_size=16, val_size=0.25, **options)
    data.setup(stage)
    return data


def test_one_folder_is_split() -> None:
    draw(Path("pets"), {"cat": 20, "dog": 30, "owl": 10})
    data = set_up()
    data.setup("test")
    assert data.num_classes == 3
    parts = [data.train_set, data.val_set, data.test_set]
    sizes = [len(part[1]) for part in parts if part]
    # A fifth of each class is held out for the test, and a quarter of the rest for the validation.
    assert sizes == [36, 12, 12]
    for part, counts in zip(parts, ([12, 18, 6], [4, 6, 2], [4, 6, 2]), strict=True):
        assert part is not None
        assert torch.bincount(part[0].labels[part[1]]).tolist() == counts
    assert not contents(parts[0]) & contents(parts[1])
    assert not contents(parts[0]) & contents(parts[2])
    for part in parts:
        assert part is not None
        assert set(part[0].labels[part[1]].tolist()) == {0, 1, 2}
    again = set_up("test", split_seed=7)
    assert contents(again.test_set) == contents(data.test_set)
    assert data.inference_config() == {
        "classes": ["cat", "dog", "owl"],
        "preprocess": {"size": 16, "resize": 18, "mean": [0.5] * 3, "std": [0.5] * 3},
    }


@given(st.integers(0), st.integers(40, 200), st.integers(0, 30), st.sampled_from([0.1, 0.2, 0.5]))
def test_an_image_stays_in_its_part_when_others_are_removed(name: int, files: int, removed: int, share: float) -> None:
    names = [f"{name} {number} ä.png" for number in range(files)]
    labels = torch.arange(len(names)) % 2
    before = held_out(names, labels, share)[removed:]
    after = held_out(names[removed:], labels[removed:], share)
    for label in (0, 1):
        own = labels[removed:] == label
        removed_of_class = int((labels[:removed] == label).sum())
        # At most as many images change their part as were removed, all of them in the same direction.
        assert int((before != after)[own].sum()) <= removed_of_class
        assert not ((before & ~after)[own].any() and (after & ~before)[own].any())


@given(st.lists(st.integers(1, 70), min_size=2, max_size=5), st.floats(0.01, 0.99))
def test_the_share_of_each_class_is_held_out_to_an_image(counts: list[int], share: float) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    held = held_out([f"{label}/{number}" for number, label in enumerate(labels.tolist())], labels, share)
    for label, count in enumerate(counts):
        size = int(held[labels == label].sum())
        assert abs(size - share * count) <= 0.5 or size in (1, count - 1)
        assert min(1, count - 1) <= size <= max(0, count - 1)


def test_without_validation_all_images_are_trained_on() -> None:
    draw(Path("pets/train"), {"cat": 8, "dog": 8})
    draw(Path("pets/val"), {"cat": 3, "dog": 2})
    draw(Path("pets/test"), {"cat": 4, "dog": 4})
    data = ImageFolder(root="pets", image_size=16, val_size=0)
    with pytest.warns(UserWarning, match="no longer independent"):
        data.setup("fit")
    assert data.train_set is not None
    assert len(data.train_set[1]) == 21


def test_a_class_may_be_called_train() -> None:
    draw(Path("pets"), {"plane": 8, "train": 8})
    assert set_up().num_classes == 2


@pytest.mark.parametrize("stop", [2, 4], ids=["after an epoch", "within an epoch"])
def test_training_with_workers_resumes_exactly(stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Path("pets"), {"cat": 16, "dog": 16})
    streamed = ["fit", *SMALL, "--data.root", "pets", "--data.memory_gb", "0", "--data.workers", "1"]
    main([*streamed, "--trainer.max_epochs", "3"])
    with monkeypatch.context() as patch:
        interrupt_at(stop, patch)
        with pytest.raises(SystemExit):
            main([*streamed, "--trainer.max_epochs", "3"])
    main([*streamed, "--trainer.max_epochs", "3", "--ckpt_path", "last"])
    uninterrupted, resumed = (
        torch.load(Path("runs/folder") / version / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for version in ("version_0", "version_1")
    )
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in uninterrupted.items())


def test_other_images_than_those_of_the_checkpoint_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("pets"), {"cat": 12, "dog": 12})
    main(["fit", *SMALL, "--data.root", "pets", "--trainer.max_epochs", "1"])
    draw(Path("pets"), {"cat": 12, "dog": 16})
    main(["fit", *SMALL, "--data.root", "pets", "--ckpt_path", "last"])
    assert "warning: the training images are not those that the checkpoint was trained on" in capsys.readouterr().err


def test_an_image_that_was_removed_is_reported_in_one_line() -> None:
    draw(Path("pets"), {"cat": 12, "dog": 12})
    data = set_up(memory_gb=0.0, workers=1)
    for path in Path("pets/cat").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"^an image can no longer be read: pets/cat/\d\d ä.png: No such file"):
        list(data.train_dataloader())


def test_a_folder_for_each_part() -> None:
    draw(Path("pets/train"), {"cat": 8, "dog": 8})
    draw(Path("pets/val"), {"cat": 3, "dog": 2})
    draw(Path("pets/test"), {"cat": 4, "dog": 4})
    data = set_up()
    data.setup("test")
    assert [len(part[1]) for part in (data.train_set, data.val_set, data.test_set) if part] == [16, 5, 8]
    Path("pets/test/lynx").mkdir()
    with pytest.raises(UserError, match="pets/test/lynx: there is no class lynx among the training images"):
        set_up("test")


def test_batches_from_memory_and_from_files_are_equal() -> None:
    draw(Path("pets"), {"cat": 12, "dog": 12})
    in_memory, streamed = set_up(), set_up(memory_gb=0.0, workers=2)
    assert in_memory.train_set is not None
    assert streamed.train_set is not None
    assert isinstance(in_memory.train_set[0], Images)
    assert isinstance(streamed.train_set[0], ImageFiles)
    assert "decoded for every batch by 2 workers" in streamed.describe()
    for batch, reference in zip(streamed.train_dataloader(), in_memory.train_dataloader(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch[:3], reference[:3], strict=True))


def test_an_image_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(Path("pets"), {"cat": 6, "dog": 6})
    set_up()
    with monkeypatch.context() as patch:
        patch.setattr("regularization.data.image_files.read_all", None)  # must not be called again
        set_up(split_seed=3)
    for path in Path("pets/cat").iterdir():
        Image.new("RGB", (9, 9), (255, 255, 255)).save(path)
    fresh = set_up()
    assert fresh.train_set is not None
    images, _ = fresh.train_set
    assert any(bool((images[torch.tensor([index])][0] == 255).all()) for index in range(len(images)))


def test_crops_are_random_in_training_and_central_in_evaluation() -> None:
    draw(Path("pets"), {"cat": 12, "dog": 12})
    data = set_up(resize=24, flip=True)
    data.trainer = type("Training", (), {"training": True, "current_epoch": 0})()
    assert data.train_set is not None
    images, subset = data.train_set
    batch = Batch(*images[subset], 1.0)
    inputs = data.on_after_batch_transfer(batch, 0).images
    assert inputs.shape == (len(subset), 3, 16, 16)
    crops = set()
    for image, crop in zip(batch[0].float() / 255 * 2 - 1, inputs, strict=True):
        matches = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped, window in enumerate((image[:, top : top + 16, left : left + 16],) * 2)
            if torch.allclose(window.flip(-1) if flipped else window, crop, atol=1e-6)
        ]
        assert len(matches) == 1
        crops.update(matches)
    assert len(crops) > 8
    data.trainer.training = False
    inputs = data.on_after_batch_transfer(batch, 0).images
    assert torch.allclose(inputs, batch[0][:, :, 4:20, 4:20].float() / 255 * 2 - 1, atol=1e-6)


def test_errors(refused: Refused) -> None:
    fit = ["fit", *SMALL, "--data.root"]
    assert "there is no folder nowhere" in refused(*fit, "nowhere")
    Path("empty").mkdir()
    assert "must contain one folder per class with its images; it contains none" in refused(*fit, "empty")
    draw(Path("pets"), {"cat": 6})
    assert "it contains only cat" in refused(*fit, "pets")
    Path("pets/dog").mkdir()
    assert "pets/dog contains no images" in refused(*fit, "pets")
    draw(Path("pets"), {"dog": 6})
    Path("pets/dog/letter.png").write_text("not an image")
    whole = Path("pets/cat/03 ä.png").read_bytes()
    Path("pets/cat/half.png").write_bytes(whole[: len(whole) // 2])
    for memory_gb in ("4", "0"):
        message = refused(*fit, "pets", "--data.memory_gb", memory_gb)
        assert "images cannot be read" in message
        # Which of the two is named depends on the parts that they are in.
        assert "pets/dog/letter.png: not an image" in message or "pets/cat/half.png: " in message
    Path("pets/dog/letter.png").unlink()
    assert "pets/cat/half.png: " in refused(*fit, "pets")
    sweep = ["sweep", "--config", str(CONFIGS / "sweeps" / "folder.yaml"), "--data.root", "pets"]
    assert "pets/cat/half.png: " in refused(*sweep)
    Path("pets/cat/half.png").unlink()
    assert "there are no images to test on" in refused(*sweep, "--data.test_size", "0")
    assert "--data.workers must be at least 0, not -1" in refused(*fit, "pets", "--data.workers", "-1")
    assert "--data.test_size must be at least 0 and below 1" in refused(*fit, "pets", "--data.test_size", "7")
    assert "give both, or neither" in refused(*fit, "pets", "--data.mean", "[0.5,0.5,0.5]")
    both = ("--data.class_weights", "balanced", "--data.balanced_sampling", "true")
    assert "have the same purpose: use one of them" in refused(*fit, "pets", *both)
    assert "--data.resize must be at least --data.image_size, 16, not 8" in refused(*fit, "pets", "--data.resize", "8")


def test_own_images_from_fit_to_predict(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("my pets"), {"cat": 20, "dog": 20})
    main(["fit", *SMALL, "--data.root", "my pets", "--trainer.max_epochs", "6"])
    run = Path("runs/folder/version_0")
    assert rows_of(run)[-1]["val_accuracy"] > 0.9
    assert rows_of(run)[-1]["val_balanced_accuracy"] > 0.9
    assert "validation images correct" in (run / "report.html").read_text()
    main(["test", *SMALL, "--data.root", "my pets", "--ckpt_path", "best"])
    scores = json.loads((run / "result.json").read_text())["test"]
    assert {"test_balanced_accuracy", "test_macro_f1"} <= scores.keys()
    assert "test images correct" in (run / "report.html").read_text()
    main(["predict", "--ckpt_path", str(run), "--images", "my pets", "--output", "named"])
    with Path("named/predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    correct = [row["file"].split("/")[1] == row["class"] for row in rows]
    assert len(rows) == 40
    assert sum(correct) >= 36
    assert "40 images classified, 0 skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_on_own_images(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("pets"), {"cat": 20, "dog": 20})
    # With two threads and four filters, PyTorch 2.14 would crash in channels_last.
    small = ["--data.image_size", "16", "--model.network.width", "4", "--trainer.max_epochs", "3", "--threads", "2"]
    # With ``--until decided``, the noise would lead to 80 trials.
    fixed = ["--data.root", "pets", "--seeds", "2", "--until", "seeds"]
    main(["sweep", "--config", str(CONFIGS / "sweeps" / "folder.yaml"), *fixed, *small])
    out = capsys.readouterr().out
    assert "validation accuracy" in out.splitlines()[-2]
    assert Path("runs/folder/version_0/report.html").is_file()


def test_imbalanced_classes_are_counted_and_warned_of() -> None:
    draw(Path("pets"), {"cat": 24, "dog": 4})
    with pytest.warns(UserWarning, match=r"imbalanced: cat has 18 training images, dog 3\. .*class_weights balanced"):
        data = set_up(test_size=0)
    assert data.describe().splitlines()[1] == "training images per class: cat 18, dog 3"


def test_classes_with_too_few_images_are_named(refused: Refused) -> None:
    draw(Path("pets"), {"cat": 9, "dog": 9, "emu": 1, "owl": 2})
    fit = ["fit", *SMALL, "--data.root", "pets"]
    assert "too few images of emu, owl: only 1 is left to train and validate with." in refused(*fit)
    draw(Path("pets"), {"cat": 9, "dog": 9, "emu": 4, "owl": 4})
    assert "cannot hold out 2 of " in (message := refused(*fit, "--data.val_size", "2"))
    assert "images with 4 classes: raise --data.val_size" in message
    assert "classes: lower --data.val_size" in refused(*fit, "--data.val_size", "0.99")


def test_balanced_sampling_draws_each_class_equally_often_and_resumes() -> None:
    draw(Path("pets"), {"cat": 72, "dog": 8})
    data = set_up(test_size=0, balanced_sampling=True, batch_size=10)
    sampler = data.train_dataloader().sampler
    assert isinstance(sampler, EpochSampler)
    assert data.train_set is not None
    labels = data.train_set[0].labels
    epochs = [labels[sampler.permutation(epoch)] for epoch in range(40)]
    assert {len(epoch) for epoch in epochs} == {60}
    # 2,400 draws with probability 1/2 have a standard deviation of 24.5.
    assert abs(int(torch.cat(epochs).sum()) - 1200) < 4 * 24.5
    before = torch.cat(list(sampler))
    sampler.progress = (0, 20)
    assert torch.equal(torch.cat(list(sampler)), before[20:])


def test_class_weights_need_an_image_of_each_class() -> None:
    draw(Path("pets"), {"cat": 60, "dog": 60, "owl": 4})

    def draw_subsets() -> None:
        for seed in range(20):  # several of the subsets have no owl
            set_up(subset=6, class_weights="balanced", split_seed=seed)

    with pytest.raises(UserError, match="class owl has no training image, so its weight would be infinite"):
        draw_subsets()


def test_class_weights_give_each_class_the_same_share_of_the_loss() -> None:
    draw(Path("pets"), {"cat": 9, "dog": 3, "owl": 6})
    data = set_up(test_size=0, class_weights="balanced", batch_size=100)
    assert data.train_set is not None
    labels = data.train_set[0].labels[data.train_set[1]].numpy()
    reference = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert data.loss_weights is not None
    assert np.allclose(data.loss_weights.numpy(), reference)
    model = ImageClassifier(SmallResNet(num_classes=3, width=4), label_smoothing=0.1)
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    targets = torch.arange(12) % 3
    batch = as_batch((torch.randn(12, 3, 8, 8), targets))
    logits, plain, *_ = model._losses(batch)
    assert torch.equal(plain, cross_entropy(logits, targets, label_smoothing=0.1))
    model.trainer.datamodule = data  # type: ignore[attr-defined]
    weighted = model._losses(batch).criterion
    one_by_one = [
        cross_entropy(logit[None], target[None], data.loss_weights, label_smoothing=0.1, reduction="sum")
        for logit, target in zip(logits, targets, strict=True)
    ]
    assert torch.allclose(weighted, torch.stack(one_by_one).mean())
