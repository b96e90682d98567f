"""Folders written by ``save_to_disk`` of Hugging Face's datasets: the commands, columns, splits and mistakes."""

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from regularization import HuggingFaceData, UserError
from regularization.cli.main import main
from regularization.data import image_files
from tests.data.test_datasets import draw, predicted, run_all_commands
from tests.training.test_command import Refused

datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'regularization[datasets]'")
NAMES = ["rust", "blight", "healthy"]


def split(count: int, seed: int, channels: tuple[int, ...] = (3,), label: Any = None, **columns: Any) -> Any:
    """A split with a column of images and one of labels; ``label`` is its type, by default class labels."""
    pixels, labels = draw(count, 12, channels, 3, seed)
    values = [NAMES[index] for index in labels] if label == datasets.Value("string") else labels.tolist()
    features = {"image": datasets.Image(), "label": label or datasets.ClassLabel(names=NAMES)}
    features |= {name: datasets.Value("string") for name in columns}
    content = {"image": list(map(Image.fromarray, pixels)), "label": values, **columns}
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def save(**splits: Any) -> str:
    """Saves a data set with these splits and returns its folder."""
    datasets.DatasetDict(splits).save_to_disk("leaves")
    return "leaves"


def test_the_commands_with_training_validation_and_test_images(capsys: pytest.CaptureFixture[str]) -> None:
    save(train=split(48, 0), validation=split(12, 1), test=split(15, 2))
    own = ["--data", "HuggingFaceData", "--data.root", "leaves"]
    printed = run_all_commands(own, [], capsys)
    assert "HuggingFaceData: 48 training images, 12 validation images" in printed
    assert predicted() & set(NAMES)


def test_pixels_labels_and_sizes() -> None:
    """Grey images become RGB; with image_size they are resized as those of other data sets are."""
    pixels, labels = draw(48, 12, (), 3, 0)
    root = save(train=split(48, 0, channels=()), test=split(15, 2))
    whole = HuggingFaceData(root, val_size=None).read(train=True)
    assert torch.equal(whole.pixels, torch.from_numpy(pixels)[:, None].expand(-1, 3, -1, -1))
    assert torch.equal(whole.labels, torch.from_numpy(labels))
    assert whole.classes == tuple(NAMES)
    resized = HuggingFaceData(root, image_size=7).read(train=True).pixels
    expected = image_files.square(Image.fromarray(pixels[5]).convert("RGB"), 8)
    assert torch.equal(resized[5], torch.from_numpy(np.array(expected)).movedim(-1, 0))


@pytest.mark.parametrize(
    ("splits", "test_images", "has_val"),
    [
        ({"train": 45, "dev": 9, "test": 6}, 6, True),
        ({"train": 45, "validation": 9}, 9, False),  # validation takes the place of the test images
        ({"train": 45}, 9, False),  # a fifth of each class is held out
        ({}, 9, False),
    ],
)
def test_the_splits(splits: dict[str, int], test_images: int, has_val: bool) -> None:
    if splits:
        save(**{name: split(count, seed) for seed, (name, count) in enumerate(splits.items())})
    else:
        split(45, 0).save_to_disk("leaves")
    data = HuggingFaceData("leaves")
    assert len(data.read(train=False)) == test_images
    assert data.has("val") == has_val


@pytest.mark.parametrize("label", ["class", "string", "int64"])
def test_the_kinds_of_labels(label: str) -> None:
    """Class labels, texts (which are sorted), and integers."""
    type_ = None if label == "class" else datasets.Value(label)
    save(train=split(12, 0, label=type_), test=split(6, 1, label=type_))
    images = HuggingFaceData("leaves").read(train=False)
    classes = {"class": NAMES, "string": sorted(NAMES), "int64": ["0", "1", "2"]}[label]
    assert images.classes == tuple(classes)
    expected = [NAMES[index % 3] if label != "int64" else str(index % 3) for index in range(6)]
    assert [classes[index] for index in images.labels.tolist()] == expected


def test_columns_by_name(refused: Refused) -> None:
    """Several columns of images and of labels, and image files in a column of bytes."""
    train, buffer = split(12, 0), BytesIO()
    Image.new("RGB", (12, 12), "red").save(buffer, "png")
    bytes_ = datasets.Dataset.from_dict({"files": [buffer.getvalue()] * 12})
    other = split(12, 1).rename_columns({"image": "mask", "label": "coarse"})
    save(train=datasets.concatenate_datasets([train, other, bytes_], axis=1))
    options = ("fit", "--data", "HuggingFaceData", "--data.root", "leaves", "--data.val_size=null")
    assert "--data.image_column: give one of the columns image, mask" in refused(*options)
    chosen = (*options, "--data.image_column=mask")
    assert "--data.label_column: give one of the columns label, coarse" in refused(*chosen)
    assert "there is no column coarsee (did you mean coarse" in refused(*chosen, "--data.label_column=coarsee")
    data = HuggingFaceData("leaves", image_column="files", label_column="coarse")
    assert (data.load("train").pixels == torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]).all()


def broken(kind: str) -> Any:
    """A split that cannot be used."""
    train = split(12, 0)
    if kind == "damaged":
        features = datasets.Features({"image": datasets.Image(decode=False)})
        images = datasets.Dataset.from_dict({"image": [{"bytes": b"?", "path": None}] * 12}, features=features)
        return datasets.concatenate_datasets([images, train.remove_columns("image")], axis=1)
    if kind == "sizes":
        small = split(3, 0).map(lambda row: {"image": row["image"].resize((5, 5))})
        return datasets.concatenate_datasets([train, small])
    return split(12, 0, label=datasets.Value("float32"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("damaged", "number 0 of the train images of leaves cannot be decoded"),
        ("sizes", "the train images of leaves have different sizes: give --data.image_size"),
        ("float", "leaves: the training images have the label 0.0, which is not a class label"),
    ],
)
def test_what_cannot_be_used_is_refused(kind: str, message: str, refused: Refused) -> None:
    save(train=broken(kind))
    assert message in refused("fit", "--data", "HuggingFaceData", "--data.root", "leaves")


def test_no_file_outside_of_the_folder_is_opened() -> None:
    """``save_to_disk`` puts files into the folder, but a folder crafted to read a secret may refer to other files."""
    import pyarrow

    Image.new("RGB", (12, 12)).save("secret.png")
    (file,) = Path(save(train=split(12, 0)), "train").glob("*.arrow")
    with pyarrow.ipc.open_stream(file.read_bytes()) as stream:
        table = stream.read_all()
    paths = [{"bytes": None, "path": str(Path("secret.png").absolute())}] * 12
    column = pyarrow.array(paths, type=table.schema.field("image").type)
    with pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table.set_column(table.schema.get_field_index("image"), "image", column))
    assert datasets.load_from_disk("leaves")["train"][0]["image"].size == (12, 12)
    with pytest.raises(UserError, match="number 0 of the train images of leaves is not an image file but"):
        HuggingFaceData("leaves").load("train")


def test_other_mistakes(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("fit", "--data", "HuggingFaceData", "--data.root")
    assert "give the folder that save_to_disk has written" in refused(*options[:-1])
    assert "--data.root: there is no folder" in refused(*options, "nowhere")
    assert "--data.root: there is no folder" in refused(*options, "s3://bucket/leaves")
    Path("empty").mkdir()
    assert "is not a folder that save_to_disk has written" in refused(*options, "empty")
    datasets.DatasetDict({"all": split(12, 0)}).save_to_disk("unsplit")
    assert "there is no split train in" in refused(*options, "unsplit")
    save(train=split(12, 0), test=split(3, 1).map(lambda _: {"label": -1}))
    data = HuggingFaceData("leaves")
    with pytest.raises(UserError, match="leaves: the test images have the label -1, which is not a class label"):
        data.read(train=False)


def test_without_the_package(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    Path("leaves").mkdir()
    message = refused("fit", "--data", "HuggingFaceData", "--data.root", "leaves")
    assert "HuggingFaceData needs datasets: pip install 'regularization[datasets]'" in message
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--data.help", "HuggingFaceData"])
    assert not exit_.value.code
