"""Evaluation: numbers against scikit-learn, NumPy and torchmetrics; the files that ``test`` writes for the digits."""

import csv
import json
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix

from regularization import Digits
from regularization.callbacks.val_logits import write_logits
from regularization.cli.main import main
from regularization.data.image_files import ImageFiles
from regularization.data.readers import Images
from regularization.errors import UserError
from regularization.inference import evaluation, plots
from regularization.inference.calibration import reliability_bins
from regularization.inference.evaluation import Evaluation
from regularization.models.classifier import ImageClassifier
from regularization.models.metrics import calibration_error
from tests.training.test_command import QUICK, RUN

TEST = RUN / "test"
FILES = {"classes.csv", "confusion.png", "reliability.png", "wrong.png", "logits.npz"}
LONG = "american staffordshire bull terrier"


def random_evaluation(count: int = 500, classes: int = 4, strength: float = 2.0, seed: int = 0) -> Evaluation:
    """Random predictions, some of them correct, for every third image of a data set."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (3 * count,), generator=generator)
    pixels = torch.randint(256, (3 * count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    index = torch.arange(0, 3 * count, 3)
    logits = 2 * torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels[index]] += strength
    return Evaluation(Images(pixels, labels, tuple(f"class {label}" for label in range(classes))), index, logits)


def with_errors(predictions: Evaluation, errors: int) -> Evaluation:
    """The same predictions, but only the ``errors`` most confident errors remain wrong."""
    logits = predictions.logits.clone()
    corrected = predictions.most_confident_errors(len(logits))[errors:]
    logits[corrected] = -9.0
    logits[corrected, predictions.labels[corrected]] = 9.0
    return replace(predictions, logits=logits)


def texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_confusion_and_class_scores_equal_scikit_learns() -> None:
    predictions = random_evaluation()
    labels, predicted = predictions.labels.numpy(), predictions.logits.numpy().argmax(axis=1)
    reference = confusion_matrix(labels, predicted)
    assert np.array_equal(predictions.confusion, reference)
    assert predictions.accuracy == accuracy_score(labels, predicted)
    for label, score in enumerate(predictions.class_scores()):
        assert score.accuracy == accuracy_score(labels[labels == label], predicted[labels == label])
        errors = np.delete(reference[label], label)
        assert (score.name, score.images) == (f"class {label}", (labels == label).sum())
        assert score.confusions == errors.max()
        assert reference[label, predictions.images.classes.index(score.confused_with)] == score.confusions


@pytest.mark.parametrize(("correct", "images"), [(340, 400), (396, 400), (7, 20), (1800, 2000)])
def test_interval_equals_the_bootstrap(correct: int, images: int) -> None:
    generator = np.random.default_rng(0)
    outcomes = np.arange(images) < correct
    means = [outcomes[generator.integers(images, size=images)].mean() for _ in range(20_000)]
    # The quantiles of 20,000 resamples are accurate to about 0.02 standard errors, and are multiples of 1/N.
    tolerance = 0.05 * np.sqrt(correct / images * (1 - correct / images) / images) + 1 / images
    interval = evaluation.bootstrap_interval(correct, images)
    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=tolerance)


def test_interval_without_variation() -> None:
    assert evaluation.bootstrap_interval(30, 30) == (1, 1)
    assert evaluation.bootstrap_interval(0, 30) == (0, 0)
    assert evaluation.bootstrap_interval(1, 1) == (1, 1)


def test_reliability_bins_equal_numpys_and_sum_up_to_the_calibration_error() -> None:
    predictions = random_evaluation(2000)
    bins = predictions.reliability_bins()
    probabilities = np.exp(predictions.logits.double().numpy())
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == predictions.labels.numpy()
    for index in range(15):
        inside = (confidence >= index / 15) & (confidence < (index + 1) / 15)
        assert bins.images[index] == inside.sum()
        if inside.any():
            assert bins.confidence[index] == pytest.approx(confidence[inside].mean())
            assert bins.accuracy[index] == pytest.approx(correct[inside].mean())
        else:
            assert np.isnan(bins.accuracy[index])
    error = np.nansum(np.abs(bins.confidence - bins.accuracy) * bins.images) / 2000
    reference = calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert error == pytest.approx(float(reference), abs=1e-6)
    # All predictions have a confidence of 1, and half of them are correct.
    assert float(calibration_error(torch.ones(10), torch.arange(10) % 2)) == pytest.approx(0.5)


def test_the_last_bin_includes_a_confidence_of_1() -> None:
    bins = reliability_bins(np.array([1.0, 0.99, 0.0]), np.array([True, False, False]))
    assert (bins.images[0], bins.images[-1], bins.accuracy[-1]) == (1, 2, 0.5)


def test_most_confident_errors() -> None:
    predictions = random_evaluation()
    probabilities = predictions.logits.softmax(dim=1)
    wrong = [index for index in range(500) if int(probabilities[index].argmax()) != int(predictions.labels[index])]
    ranked = sorted(wrong, key=lambda index: -float(probabilities[index].max()))
    assert predictions.most_confident_errors() == ranked[:25]
    first = ranked[0]
    index = predictions.index[first : first + 1]
    assert torch.equal(predictions.image(first), predictions.images[index][0][0])
    predicted = predictions.images.classes[int(probabilities[first].argmax())]
    assert predictions.caption(first) == (
        f"{predictions.images.classes[int(predictions.labels[first])]}\n"
        f"read as {predicted}\n"
        f"{float(probabilities[first].max()):.0%}"
    )


def test_errors_with_a_confidence_of_almost_1_are_ranked() -> None:
    # Both probabilities are 1 in float32.
    images = Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 1]), ("a", "b"))
    predictions = Evaluation(images, torch.arange(2), torch.tensor([[25.0, 0.0], [30.0, 0.0]]))
    assert predictions.most_confident_errors() == [1, 0]


def test_images_that_are_read_from_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{shade}.png" for shade in (0, 100, 200)]
    for shade, path in zip((0, 100, 200), paths, strict=True):
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)
    files = ImageFiles(paths, 8, torch.tensor([0, 1, 1]), ("a", "b"), 0)
    predictions = Evaluation(files, torch.arange(3), torch.tensor([[1.0, 0], [0, 1], [1, 0]]))
    errors = predictions.most_confident_errors()
    assert [int(predictions.image(position).float().mean()) for position in errors] == [200]
    evaluation.write_files(predictions, 0.0, tmp_path / "test")
    assert {path.name for path in (tmp_path / "test").iterdir()} == FILES


def test_without_errors_there_is_no_contact_sheet(tmp_path: Path) -> None:
    predictions = random_evaluation(count=60)
    evaluation.write_files(with_errors(predictions, 7), 0.0, tmp_path)
    before = (tmp_path / "confusion.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == FILES
    perfect = with_errors(predictions, 0)
    evaluation.write_files(perfect, 0.0, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"wrong.png"}
    assert (tmp_path / "confusion.png").read_bytes() != before
    assert perfect.summary() == (
        "accuracy 100.00%, 95% interval 100.00% to 100.00% over 60 test images\nall classes: 100.00%"
    )


def test_a_class_without_images(tmp_path: Path) -> None:
    images = Images(torch.zeros(4, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 2, 2]), ("a", "none", "c"))
    logits = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    predictions = Evaluation(images, torch.arange(4), logits)
    evaluation.write_files(predictions, 0.0, tmp_path)
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines == [
        "class,images,right,accuracy,taken_for,times",
        "a,2,1,0.500000,none,1",
        "none,0,0,,,",
        "c,2,2,1.000000,,",
    ]
    assert predictions.summary().splitlines()[1] == "worst class a: 50.00% of 2 images, best class c: 100.00% of 2"


def test_confusion_matrix_shows_counts_if_they_fit() -> None:
    counts = np.array([[8, 2], [0, 10]])
    figure = plots.draw_confusion(counts, [LONG, "$5 note"])
    assert texts(figure) == ["8", "2", "10"]  # no text for 0
    image = figure.axes[0].images[0].get_array()
    assert np.asarray(image).tolist() == [[0.8, 0.2], [0, 1]]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["american sta…ull terrier", r"\$5 note"]
    assert figure.axes[0].get_title() == "90.00% of 20 test images correct"
    hundred = plots.draw_confusion(np.eye(100, dtype=np.int64), [f"{LONG} {label}" for label in range(100)])
    assert texts(hundred) == []
    assert len(hundred.axes[0].get_yticks()) == 100
    largest = plots.draw_confusion(np.eye(700, dtype=np.int64), ["x"] * 700)
    assert len(largest.axes[0].get_yticks()) < 150
    assert max(largest.get_size_inches()) < 20


def test_names_are_shortened_in_the_middle() -> None:
    assert plots.shorten("a" * 24) == "a" * 24
    assert plots.shorten(LONG) == "american sta…ull terrier"
    assert len(plots.shorten(LONG, 19)) == 19


def test_reliability_diagram_shows_the_bins() -> None:
    bins = random_evaluation(300).reliability_bins()
    upper, lower = plots.draw_reliability(bins, 0.1234).axes
    heights = [bar.get_height() for bar in upper.patches]  # type: ignore[attr-defined]
    assert sorted(height for height in heights if height == height) == sorted(bins.accuracy[bins.images > 0])
    assert [bar.get_height() for bar in lower.patches] == bins.images.tolist()  # type: ignore[attr-defined]
    assert upper.get_title() == "calibration error 0.1234"


def test_the_command_writes_tables_and_plots(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "1"])
    batch_sizes: list[int] = []
    forward = ImageClassifier.forward

    def counting(self: ImageClassifier, images: torch.Tensor) -> torch.Tensor:
        batch_sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(ImageClassifier, "forward", counting)
    capsys.readouterr()
    main(["test", *QUICK, "--ckpt_path", "best"])
    output = capsys.readouterr()
    assert batch_sizes == [128, 128, 104]  # each image passes through the network once
    assert output.err == ""
    assert {path.name for path in TEST.iterdir()} == FILES
    arrays = np.load(TEST / "logits.npz")
    assert (arrays["logits"].dtype, arrays["logits"].shape) == (np.float16, (360, 10))
    assert np.array_equal(arrays["index"], np.arange(360))
    result = json.loads((RUN / "result.json").read_text())["test"]
    correct = int((arrays["logits"].argmax(axis=1) == arrays["labels"]).sum())
    assert result["test_accuracy"] == pytest.approx(correct / 360)
    interval = (result["test_accuracy_low"], result["test_accuracy_high"])
    assert interval == evaluation.bootstrap_interval(correct, 360)
    assert interval[0] < result["test_accuracy"] < interval[1]
    with (TEST / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [str(digit) for digit in range(10)]
    assert (sum(int(row["images"]) for row in rows), sum(int(row["right"]) for row in rows)) == (360, correct)
    worst = min(rows, key=lambda row: float(row["accuracy"]))
    first, second, third, last = output.out.splitlines()
    assert first.startswith(f"{RUN}/checkpoints/best.ckpt: test_loss ")
    assert second.startswith(f"accuracy {correct / 360:.2%}, 95% interval {interval[0]:.2%} to ")
    worst_class = f"worst class {worst['class']}: {float(worst['accuracy']):.2%} of {worst['images']} images, best "
    assert third.startswith(worst_class)
    assert last == f"table and plots: {TEST}; on one page: {RUN / 'report.html'}"
    page = (RUN / "report.html").read_text()
    assert f"{correct / 360:.2%} of 360 test images correct, 95% interval" in page
    pictures = [b64decode(text) for text in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    files = (RUN / "curves.png", TEST / "confusion.png", TEST / "reliability.png", TEST / "wrong.png")
    assert pictures == [file.read_bytes() for file in files]
    names = re.findall(r"<tr><td>(\d)</td><td>(\d+)</td>", page)
    assert sorted(names) == [(row["class"], row["images"]) for row in rows]
    assert names[0][0] == worst["class"]


def test_the_page_of_a_run_shows_the_newest_validation() -> None:
    images = Images(torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40) % 4, ("a", "<b>", "c", "d"))
    index = torch.arange(0, 40, 2)
    logits = torch.eye(4)[images.labels[index]]
    logits[:5] = torch.tensor([0.0, 9.0, 0.0, 0.0])
    data = Digits()
    run = Path("runs/folder/version_7")
    run.mkdir(parents=True)
    evaluation.save_validation(data, run)  # before any validation
    assert "This run was not validated." in (run / "report.html").read_text()
    data.val_set = images, index
    write_logits(run / "val_logits.npz", logits, images.labels[index], index)
    evaluation.save_validation(data, run)
    page = (run / "report.html").read_text()
    correct = int((logits.argmax(1) == images.labels[index]).sum())
    assert f"{correct / 20:.2%} of 20 validation images correct" in page
    assert "folder/version_7" in page
    assert "&lt;b&gt;" in page
    assert page.count("data:image/png") == 3
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert {path.name for path in (run / "validation").iterdir()} == FILES


def test_a_checkpoint_outside_a_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"])
    shutil.copy(RUN / "checkpoints" / "last.ckpt", "mine.ckpt")
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    main(["test", "--ckpt_path", "mine.ckpt", "--trainer.limit_test_batches", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("over 256 test images")
    assert lines[-1] == "mine.ckpt is not in a run folder: no table and no plots were written"
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "test").write_text("a file")
    with pytest.raises(UserError, match=r"can't create .*test: File exists"):
        evaluation.write_files(random_evaluation(count=10), 0.0, tmp_path / "test")
