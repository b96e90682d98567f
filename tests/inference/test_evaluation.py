"""The command ``test``: its numbers against scikit-learn, NumPy and torchmetrics, its files on the digits."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix

from regularization.cli.main import main
from regularization.data.image_files import ImageFiles
from regularization.data.readers import Images
from regularization.errors import UserError
from regularization.inference import evaluation, plots
from regularization.inference.evaluation import Evaluation
from regularization.models.classifier import ImageClassifier
from regularization.study import statistics
from tests.training.test_command import QUICK, RUN

TEST = RUN / "test"
FILES = {"classes.csv", "confusion.png", "reliability.png", "wrong.png", "logits.npz"}
LONG = "american staffordshire bull terrier"


def answers(count: int = 500, classes: int = 4, strength: float = 2.0, seed: int = 0) -> Evaluation:
    """Made-up answers, of which a part is right, to every third image of a set."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (3 * count,), generator=generator)
    pixels = torch.randint(256, (3 * count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    index = torch.arange(0, 3 * count, 3)
    logits = 2 * torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels[index]] += strength
    return Evaluation(Images(pixels, labels, tuple(f"class {place}" for place in range(classes))), index, logits)


def righted(found: Evaluation, wrong: int) -> Evaluation:
    """The same, with all but the ``wrong`` most wrong answers put right."""
    logits = found.logits.clone()
    places = found.most_wrong(len(logits))[wrong:]
    logits[places] = -9.0
    logits[places, found.labels[places]] = 9.0
    return replace(found, logits=logits)


def texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_confusion_and_classes_are_scikit_learns() -> None:
    found = answers()
    labels, guesses = found.labels.numpy(), found.logits.numpy().argmax(axis=1)
    reference = confusion_matrix(labels, guesses)
    assert np.array_equal(found.confusion, reference)
    assert found.accuracy == accuracy_score(labels, guesses)
    for place, one in enumerate(found.by_class()):
        assert one.accuracy == accuracy_score(labels[labels == place], guesses[labels == place])
        mistakes = np.delete(reference[place], place)
        assert (one.name, one.images, one.times) == (f"class {place}", (labels == place).sum(), mistakes.max())
        assert reference[place, found.images.classes.index(one.taken_for)] == one.times


@pytest.mark.parametrize(("right", "images"), [(340, 400), (396, 400), (7, 20), (1800, 2000)])
def test_the_interval_is_the_bootstraps(right: int, images: int) -> None:
    generator = np.random.default_rng(0)
    answered = np.arange(images) < right
    means = [answered[generator.integers(images, size=images)].mean() for _ in range(20_000)]
    # The quantiles of so many draws are within a hundredth of a standard error or two, and go in steps of 1/N.
    error = 0.05 * np.sqrt(right / images * (1 - right / images) / images) + 1 / images
    assert evaluation.interval(right, images) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=error)


def test_the_interval_at_its_ends() -> None:
    assert evaluation.interval(30, 30) == (1, 1)
    assert evaluation.interval(0, 30) == (0, 0)
    assert evaluation.interval(1, 1) == (1, 1)


def test_reliability_is_numpys_and_sums_up_to_the_calibration_error() -> None:
    found = answers(2000)
    bins = found.reliability()
    shares = np.exp(found.logits.double().numpy())
    shares /= shares.sum(axis=1, keepdims=True)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == found.labels.numpy()
    for place in range(15):
        inside = (confidence >= place / 15) & (confidence < (place + 1) / 15)
        assert bins.images[place] == inside.sum()
        if inside.any():
            assert bins.confidence[place] == pytest.approx(confidence[inside].mean())
            assert bins.accuracy[place] == pytest.approx(right[inside].mean())
        else:
            assert np.isnan(bins.accuracy[place])
    error = np.nansum(np.abs(bins.confidence - bins.accuracy) * bins.images) / 2000
    assert error == pytest.approx(statistics.calibration_error(found.logits.numpy(), found.labels.numpy()), abs=1e-6)


def test_the_last_bin_holds_certainty() -> None:
    bins = evaluation.reliability(np.array([1.0, 0.99, 0.0]), np.array([True, False, False]))
    assert (bins.images[0], bins.images[-1], bins.accuracy[-1]) == (1, 2, 0.5)


def test_most_wrong() -> None:
    found = answers()
    shares = found.logits.softmax(dim=1)
    wrong = [place for place in range(500) if int(shares[place].argmax()) != int(found.labels[place])]
    ranked = sorted(wrong, key=lambda place: -float(shares[place].max()))
    assert found.most_wrong() == ranked[:25]
    first = ranked[0]
    assert torch.equal(found.picture(first), found.images[found.index[first : first + 1]][0][0])
    guess = found.images.classes[int(shares[first].argmax())]
    assert found.caption(first) == (
        f"{found.images.classes[int(found.labels[first])]}\n{guess} {float(shares[first].max()):.0%}"
    )


def test_certain_mistakes_are_told_apart() -> None:
    # Both 1 in float32.
    images = Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 1]), ("a", "b"))
    found = Evaluation(images, torch.arange(2), torch.tensor([[25.0, 0.0], [30.0, 0.0]]))
    assert found.most_wrong() == [1, 0]


def test_pictures_that_stay_in_their_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{shade}.png" for shade in (0, 100, 200)]
    for shade, path in zip((0, 100, 200), paths, strict=True):
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)
    files = ImageFiles(paths, 8, torch.tensor([0, 1, 1]), ("a", "b"), 0)
    found = Evaluation(files, torch.arange(3), torch.tensor([[1.0, 0], [0, 1], [1, 0]]))
    assert [int(found.picture(place).float().mean()) for place in found.most_wrong()] == [200]
    evaluation.write(found, 0.0, tmp_path / "test")
    assert {path.name for path in (tmp_path / "test").iterdir()} == FILES


def test_without_wrong_answers_there_is_no_picture_of_them(tmp_path: Path) -> None:
    found = answers(count=60)
    evaluation.write(righted(found, 7), 0.0, tmp_path)
    before = (tmp_path / "confusion.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == FILES
    right = righted(found, 0)
    evaluation.write(right, 0.0, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"wrong.png"}
    assert (tmp_path / "confusion.png").read_bytes() != before
    assert right.summary() == (
        "accuracy 100.00%, 95% interval 100.00% to 100.00% over 60 test images\nevery class: 100.00%"
    )


def test_a_class_without_images(tmp_path: Path) -> None:
    images = Images(torch.zeros(4, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 2, 2]), ("a", "none", "c"))
    found = Evaluation(images, torch.arange(4), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]))
    evaluation.write(found, 0.0, tmp_path)
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines == [
        "class,images,right,accuracy,taken_for,times",
        "a,2,1,0.500000,none,1",
        "none,0,0,,,",
        "c,2,2,1.000000,,",
    ]
    assert found.summary().splitlines()[1] == "worst class a: 50.00% of 2, best class c: 100.00% of 2"


def test_the_confusion_matrix_has_counts_while_they_fit() -> None:
    counts = np.array([[8, 2], [0, 10]])
    figure = plots.draw_confusion(counts, [LONG, "$5 note"])
    assert texts(figure) == ["8", "2", "10"]  # none for 0
    image = figure.axes[0].images[0].get_array()
    assert np.asarray(image).tolist() == [[0.8, 0.2], [0, 1]]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["american sta…ull terrier", r"\$5 note"]
    assert figure.axes[0].get_title() == "90.00% of 20 test images right"
    many = plots.draw_confusion(np.eye(100, dtype=np.int64), [f"{LONG} {place}" for place in range(100)])
    assert texts(many) == []
    assert len(many.axes[0].get_yticks()) == 100
    crowd = plots.draw_confusion(np.eye(700, dtype=np.int64), ["x"] * 700)
    assert len(crowd.axes[0].get_yticks()) < 150
    assert max(crowd.get_size_inches()) < 20


def test_names_are_shortened_in_their_middle() -> None:
    assert plots.shortened("a" * 24) == "a" * 24
    assert plots.shortened(LONG) == "american sta…ull terrier"
    assert len(plots.shortened(LONG, 19)) == 19


def test_the_reliability_diagram_shows_the_bins() -> None:
    bins = answers(300).reliability()
    above, below = plots.draw_reliability(bins, 0.1234).axes
    heights = [bar.get_height() for bar in above.patches]  # type: ignore[attr-defined]
    assert sorted(height for height in heights if height == height) == sorted(bins.accuracy[bins.images > 0])
    assert [bar.get_height() for bar in below.patches] == bins.images.tolist()  # type: ignore[attr-defined]
    assert above.get_title() == "calibration error 0.1234"


def test_the_command_writes_tables_and_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "1"])
    batches: list[int] = []
    forward = ImageClassifier.forward

    def counted(self: ImageClassifier, images: torch.Tensor) -> torch.Tensor:
        batches.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(ImageClassifier, "forward", counted)
    capsys.readouterr()
    main(["test", *QUICK, "--ckpt_path", "best"])
    said = capsys.readouterr()
    assert batches == [128, 128, 104]  # each image went through the network once
    assert said.err == ""
    assert {path.name for path in TEST.iterdir()} == FILES
    kept = np.load(TEST / "logits.npz")
    assert (kept["logits"].dtype, kept["logits"].shape) == (np.float16, (360, 10))
    assert np.array_equal(kept["index"], np.arange(360))
    result = json.loads((RUN / "result.json").read_text())["test"]
    right = int((kept["logits"].argmax(axis=1) == kept["labels"]).sum())
    assert result["test_accuracy"] == pytest.approx(right / 360)
    assert (result["test_accuracy_low"], result["test_accuracy_high"]) == evaluation.interval(right, 360)
    assert result["test_accuracy_low"] < result["test_accuracy"] < result["test_accuracy_high"]
    with (TEST / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [str(digit) for digit in range(10)]
    assert (sum(int(row["images"]) for row in rows), sum(int(row["right"]) for row in rows)) == (360, right)
    worst = min(rows, key=lambda row: float(row["accuracy"]))
    first, second, third, last = said.out.splitlines()
    assert first.startswith(f"{RUN}/checkpoints/best.ckpt: test_loss ")
    assert second.startswith(f"accuracy {right / 360:.2%}, 95% interval {result['test_accuracy_low']:.2%} to ")
    assert third.startswith(f"worst class {worst['class']}: {float(worst['accuracy']):.2%} of {worst['images']}, best ")
    assert last == f"table and pictures: {TEST}"


def test_a_checkpoint_outside_a_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"])
    shutil.copy(RUN / "checkpoints" / "last.ckpt", "mine.ckpt")
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    main(["test", "--ckpt_path", "mine.ckpt", "--trainer.limit_test_batches", "2"])
    out = capsys.readouterr().out.splitlines()
    assert out[1].endswith("over 256 test images")
    assert out[-1] == "mine.ckpt lies in no run folder: no table and no pictures were written"
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "test").write_text("a file")
    with pytest.raises(UserError, match=r"can't create .*test: File exists"):
        evaluation.write(answers(count=10), 0.0, tmp_path / "test")
