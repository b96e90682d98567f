"""Data sets of torchvision, of similar classes, and arrays: files in their original formats, and the commands."""

import hashlib
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from regularization import Arrays, TorchvisionData, UserError
from regularization.cli.main import main
from regularization.data import image_files
from regularization.data.preprocess import square
from tests.training.test_command import Refused

Pixels = NDArray[np.uint8]
SMALL = ["--model.network", "SmallResNet", "--model.network.width", "4", "--trainer.max_epochs", "1"]
SMALL += ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--data.batch_size", "16"]


def draw(count: int, side: int, channels: tuple[int, ...], classes: int, seed: int) -> tuple[Pixels, NDArray[np.int64]]:
    """Images with a brightness that depends on their class, ``(N, side, side, *channels)``, and their labels."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = generator.integers(0, 40, (count, side, side, *channels)) + 20 * labels.reshape(
        -1, *[1] * (2 + len(channels))
    )
    return pixels.astype(np.uint8), labels


def write_idx(path: Path, array: Pixels) -> None:
    """Writes MNIST's format: zero, zero, the type (8 is uint8), the number of axes, their lengths; then the values."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_fashion_mnist(root: Path) -> None:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count, seed in (("train", 80, 0), ("t10k", 20, 1)):
        pixels, labels = draw(count, 28, (), 10, seed)
        write_idx(folder / f"{name}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels.astype(np.uint8))


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SVHN's files hold ``X`` ``(32, 32, 3, N)`` and ``y`` ``(N, 1)``, in which 10 stands for the digit 0."""
    root.mkdir()
    splits = {}
    for name, count, seed in (("train", 80, 0), ("test", 20, 1)):
        pixels, labels = draw(count, 32, (3,), 10, seed)
        path = root / f"{name}_32x32.mat"
        scipy.io.savemat(path, {"X": pixels.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        splits[name] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)


class BloodMNIST(Dataset[Any]):
    """A class with the interface of MedMNIST's: one ``.npz`` file, labels ``(N, 1)``, names of classes in ``info``."""

    info: ClassVar = {"label": {"2": "erythroblast", "0": "basophil", "1": "eosinophil"}}

    def __init__(
        self,
        split: str,
        transform: Callable[..., Any] | None = None,
        target_transform: Callable[..., Any] | None = None,
        download: bool = False,
        as_rgb: bool = False,
        root: str = "/nowhere",
        size: int | None = None,
    ) -> None:
        path = Path(root) / "bloodmnist.npz"
        if not path.exists():
            raise RuntimeError("Dataset not found. You can set `download=True` to download it")
        if split not in ("train", "val", "test"):
            raise ValueError
        with np.load(path) as content:
            self.imgs, self.labels = content[f"{split}_images"], content[f"{split}_labels"]

    def __len__(self) -> int:
        return len(self.imgs)

    def __getitem__(self, index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
        return Image.fromarray(self.imgs[index]), self.labels[index].astype(int)


def write_medmnist(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {}
    for name, count, seed in (("train", 48, 0), ("val", 12, 1), ("test", 15, 2)):
        pixels, labels = draw(count, 28, (3,), 3, seed)
        arrays |= {f"{name}_images": pixels, f"{name}_labels": labels[:, None].astype(np.uint8)}
    np.savez(path, **arrays)


def write_pictures(folder: Path, pixels: Pixels) -> None:
    folder.mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index}.png")


def run_all_commands(args: list[str], by_user: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs ``fit``, then ``test`` (and ``by_user``) and ``predict`` with the checkpoint. Returns the ``fit`` output."""
    main(["fit", *SMALL, *args])
    printed = capsys.readouterr().out
    checkpoint = str(next(Path("runs").rglob("last.ckpt")))
    main(["test", "--ckpt_path", checkpoint, *by_user])
    assert "test_accuracy" in capsys.readouterr().out
    write_pictures(Path("pictures"), draw(2, 28, (), 2, seed=9)[0])
    main(["predict", "--ckpt_path", checkpoint, "--images", "pictures"])
    return printed


def predicted() -> set[str]:
    """The names in ``predictions.csv``."""
    return set(re.findall(r"[A-Za-z][\w ]+", Path("predictions.csv").read_text()))


def test_fashion_mnist(capsys: pytest.CaptureFixture[str]) -> None:
    write_fashion_mnist(Path("data"))
    args = ["--data", "TorchvisionData", "--data.dataset", "FashionMNIST", "--data.val_size", "20"]
    assert "FashionMNIST: 60 training images, 20 validation images" in run_all_commands(args, [], capsys)
    assert predicted() & set(torchvision.datasets.FashionMNIST.classes)


def test_svhn_by_its_class_path(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(Path("digits"), monkeypatch)
    Path("svhn.yaml").write_text(
        "data:\n  class_path: regularization.TorchvisionData\n"
        "  init_args: {dataset: torchvision.datasets.SVHN, root: digits, val_size: 20, image_size: 24, flip: true}\n"
    )
    printed = run_all_commands(["--config", "svhn.yaml"], [], capsys)
    assert "SVHN: 60 training images, 20 validation images" in printed


def test_medmnist(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    write_medmnist(Path("data/bloodmnist.npz"))
    own = ["--data", "TorchvisionData", "--data.dataset", f"{__name__}.BloodMNIST"]
    printed = run_all_commands([*own, "--data.options.size", "28"], own, capsys)
    assert "BloodMNIST: 48 training images, 12 validation images" in printed
    assert "erythroblast" in predicted()
    # A class that only the checkpoint names is not imported.
    checkpoint = str(next(Path("runs").rglob("last.ckpt")))
    assert "BloodMNIST" in refused("test", "--ckpt_path", checkpoint)


def test_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    write_medmnist(Path("blood.npz"))
    args = ["--data", "Arrays", "--data.arrays", "blood.npz", "--data.label_noise", "0.2", "--data.subset", "30"]
    assert "Arrays: 30 training images, 12 validation images" in run_all_commands(args, [], capsys)


def set_up(data: TorchvisionData | Arrays) -> Any:
    data.setup("fit")
    data.setup("test")
    return data


def test_grey_becomes_rgb_and_nothing_else_changes() -> None:
    write_fashion_mnist(Path("data"))
    data = set_up(TorchvisionData("FashionMNIST", val_size=0.25))
    (train, kept), (val, held_out), (test, _) = data.train_set, data.val_set, data.test_set
    assert train is val
    assert (len(kept), len(held_out), len(test)) == (60, 20, 20)
    pixels, labels = draw(80, 28, (), 10, seed=0)
    assert np.array_equal(train.pixels, np.repeat(pixels[:, None], 3, axis=1))
    assert train.labels.tolist() == labels.tolist()
    assert np.array_equal(test.pixels[:, 1], draw(20, 28, (), 10, seed=1)[0])
    assert train.classes == tuple(torchvision.datasets.FashionMNIST.classes)
    assert data.num_classes == 10


class Scans(Dataset[Any]):
    """Four images of modes that torchvision's own data sets do not have."""

    def __init__(self, train: bool = True) -> None:
        grey = np.array([[0, 65535], [32768, 256]], dtype=np.uint16)
        clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
        turned = Image.fromarray(np.array([[0, 85], [170, 255]], dtype=np.uint8))
        turned.getexif()[0x0112] = 6  # rotated clockwise
        self.images = [Image.fromarray(grey), clear, turned, Image.new("L", (2, 2))]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index], index % 2


def test_images_of_any_mode_are_converted_as_those_in_folders() -> None:
    data = set_up(TorchvisionData(Scans, val_size=None))
    pixels = data.train_set[0].pixels
    assert pixels[0, 0].tolist() == [[0, 255], [128, 1]], "16 bits"
    assert pixels[1].unique().tolist() == [255], "transparent"
    assert pixels[2, 0].tolist() == [[170, 0], [255, 85]], "rotated"


def test_svhn_has_ten_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(Path("data"), monkeypatch)
    data = set_up(TorchvisionData(torchvision.datasets.SVHN, val_size=10))
    train = data.train_set[0]
    pixels, labels = draw(80, 32, (3,), 10, seed=0)
    assert np.array_equal(train.pixels, pixels.transpose(0, 3, 1, 2))
    assert train.labels.tolist() == labels.tolist()
    assert train.classes == tuple("0123456789")


def test_official_validation_images() -> None:
    write_medmnist(Path("data/bloodmnist.npz"))
    for data in (TorchvisionData(BloodMNIST), Arrays("data/bloodmnist.npz")):
        set_up(data)
        assert [len(part[1]) for part in (data.train_set, data.val_set, data.test_set) if part] == [48, 12, 15]
    refit = TorchvisionData(BloodMNIST, val_size=None)
    refit.setup("fit")
    assert refit.train_set is not None
    assert len(refit.train_set[1]) == 60
    assert refit.val_set is None


class OwnData(Dataset[Any]):
    """Twelve images of the class ``own[split]``, or of every class; of two sizes if ``several_sizes``."""

    splits = ("train", "val")

    def __init__(self, split: str = "train", several_sizes: bool = False, label: Any = None) -> None:
        if split not in self.splits:
            raise ValueError(f"Unknown value {split}")
        self.number, self.several_sizes, self.label = self.splits.index(split), several_sizes, label

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        size = (8, 10 + index % 2 * self.several_sizes)
        return Image.new("L", size, 10 * self.number), index % 3 if self.label is None else self.label


def test_val_is_the_test_set_where_there_is_no_other() -> None:
    data = set_up(TorchvisionData(OwnData, val_size=3))
    assert [len(part[1]) for part in (data.train_set, data.val_set, data.test_set)] == [9, 3, 12]
    assert data.test_set[0].pixels.unique().tolist() == [10]
    assert data.val_set[0].pixels.unique().tolist() == [0]


def test_images_of_several_sizes_are_handled_as_in_folders() -> None:
    """OxfordIIITPet, whose training images are called ``trainval``."""
    for folder in ("images", "annotations"):
        (Path("data/oxford-iiit-pet") / folder).mkdir(parents=True)
    generator = np.random.default_rng(0)
    sizes = [(40, 30), (30, 50), (36, 36), (31, 77)]
    for part in ("trainval", "test"):
        lines = []
        for index, size in enumerate(sizes * 2):
            path = Path(f"data/oxford-iiit-pet/images/{'Beagle' if index % 2 else 'Sphynx_cat'}_{part}_{index}.jpg")
            Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
            lines.append(f"{path.stem} {index % 2 + 1} 1 1\n")
        Path(f"data/oxford-iiit-pet/annotations/{part}.txt").write_text("".join(lines))
    with pytest.raises(UserError, match=r"train images of OxfordIIITPet have different sizes: give --data\.image_size"):
        TorchvisionData("OxfordIIITPet")
    data = set_up(TorchvisionData("OxfordIIITPet", image_size=16, val_size=0.25))
    assert (len(data.train_set[1]), len(data.val_set[1]), len(data.test_set[1])) == (6, 2, 8)
    paths = sorted(Path("data/oxford-iiit-pet/images").glob("*test*"), key=lambda path: int(path.stem[-1]))
    expected = torch.stack([image_files.read(path, 18) for path in paths])  # type: ignore[misc]
    assert torch.equal(data.test_set[0].pixels, expected)
    assert data.inference_config()["preprocess"] == {"size": 16, "resize": 18, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert data.augment.crop == 16


def test_without_test_images_a_fifth_is_held_out() -> None:
    """EuroSAT: one folder per class, and no parts."""
    for name in ("Forest", "River"):
        folder = Path("data/eurosat/2750") / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_pictures(folder, np.random.default_rng(len(name)).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8))
    data = set_up(TorchvisionData("EuroSAT", val_size=0.25))
    parts = [
        {images.pixels[index].numpy().tobytes() for index in subset}
        for images, subset in (data.train_set, data.val_set, data.test_set)
    ]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert len(set.union(*parts)) == 20
    assert data.test_set[0].labels.tolist() == [0, 0, 1, 1]
    assert data.train_set[0].classes == ("Forest", "River")


def test_absent_files_are_downloaded(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", unreachable)
    args = ["fit", *SMALL, "--data", "TorchvisionData", "--data.dataset", "FashionMNIST"]
    message = refused(*args)
    assert f"FashionMNIST is not in {Path.cwd() / 'data'} and could not be downloaded" in message
    assert "no route to host" in message

    def fetch(url: str, download_root: str, **_: object) -> None:
        if "train-images" in url:
            Path(download_root).rmdir()
            write_fashion_mnist(Path("data"))

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    assert len(TorchvisionData("FashionMNIST").read(train=True)) == 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--data.dataset: give the class, such as FashionMNIST"),
        ({"dataset": "FashonMNIST"}, "there is no data set FashonMNIST (did you mean FashionMNIST"),
        ({"dataset": "LSUN"}, "LSUN is not supported"),
        ({"dataset": "EMNIST"}, "--data.options: EMNIST needs a value for split"),
        ({"dataset": OwnData, "options": {"severalsizes": True}}, "is unknown (did you mean several_sizes?)"),
        ({"dataset": OwnData, "options": {"split": "val"}}, "the argument split of OwnData cannot be given"),
        ({"dataset": OwnData, "options": {"several_sizes": True}}, "different sizes: give --data.image_size"),
        ({"dataset": OwnData, "options": {"label": [0, 1]}}, "one integer each as their label, not (0, 1)"),
        ({"dataset": OwnData, "options": {"label": -1}}, "they are from -1 to -1, and there are 0 classes"),
        ({"dataset": OwnData, "memory_gb": 1e-6}, "raise --data.memory_gb"),
        ({"dataset": OwnData, "resize": 9}, "--data.resize needs --data.image_size"),
        ({"dataset": OwnData, "image_size": 9, "resize": 8}, "--data.resize must be at least --data.image_size, 9"),
        ({"dataset": OwnData, "test_size": 0}, "--data.test_size must be between 0 and 1, not 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        TorchvisionData(**options)
    assert message in str(error.value)


def test_arrays_of_any_layout() -> None:
    grey, labels = draw(30, 9, (), 3, seed=0)
    colour, _ = draw(30, 9, (3,), 3, seed=1)
    for images, expected in (
        (grey, np.repeat(grey[:, None], 3, axis=1)),
        (grey[..., None], np.repeat(grey[:, None], 3, axis=1)),
        (torch.from_numpy(grey[:, None]), np.repeat(grey[:, None], 3, axis=1)),
        (colour, colour.transpose(0, 3, 1, 2)),
        (torch.from_numpy(colour.transpose(0, 3, 1, 2)), colour.transpose(0, 3, 1, 2)),
    ):
        data = Arrays({"x_train": images, "y_train": labels[:, None], "classes": ["cat", "dog", "owl"]}, val_size=0.2)
        loaded = data.load("train")
        assert np.array_equal(loaded.pixels, expected)
        assert (loaded.labels.tolist(), loaded.classes) == (labels.tolist(), ("cat", "dog", "owl"))
    set_up(data)
    assert data.train_set is not None
    assert data.test_set is not None
    assert (len(data.train_set[1]), len(data.test_set[1])) == (19, 6)
    resized = Arrays({"x_train": colour, "y_train": labels}, image_size=12, resize=12).load("train")
    assert torch.equal(resized.pixels, square(torch.from_numpy(expected), 12).to(torch.uint8))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ("", "--data.arrays: give the .npz file"),
        ("absent.npz", "absent.npz: [Errno 2] No such file"),
        ("text.npz", "cannot read"),
        ("one.npy", "it is not an .npz file"),
        ({}, "train_labels or y_train is missing; there are no arrays"),
        ({"train_images": np.zeros((4, 5, 5), np.uint8)}, "train_labels or y_train is missing; there are train_images"),
        ({"train_images": np.zeros((4, 5, 5))}, "images must be uint8 (N, H, W), (N, H, W, C) or (N, C, H, W)"),
        ({"train_images": np.zeros((4, 5, 5, 4), np.uint8)}, "channels, not uint8 (4, 5, 5, 4)"),
        ({"train_images": np.zeros((3, 5, 5), np.uint8)}, "there are 3 train images and 4 labels"),
        ({"train_labels": np.zeros(4)}, "the train labels must be integers (N,) or (N, 1), not float64 (4,)"),
        ({"train_labels": np.zeros((4, 2), int)}, "not int64 (4, 2)"),
        ({"train_labels": np.array(["a", "b", "a", "b"])}, "is no array of numbers"),
        ({"train_labels": np.zeros(4, int)}, "they are from 0 to 0, and there are 1 classes"),
        ({"classes": ["only"]}, "they are from 0 to 1, and there are 1 classes"),
        ({"test_labels": np.full(4, 7), "test_images": np.zeros((4, 5, 5), np.uint8)}, "there is an image of class 7"),
    ],
)
def test_mistakes_in_arrays(arrays: Any, message: str) -> None:
    Path("text.npz").write_text("no archive")
    np.save("one.npy", np.zeros(3))
    if isinstance(arrays, dict) and arrays and "is missing" not in message:
        arrays = {"train_images": np.zeros((4, 5, 5), np.uint8), "train_labels": np.arange(4) % 2} | arrays
    with pytest.raises(UserError) as error:
        set_up(Arrays(arrays, val_size=2, test_size=0.5))
    assert message in str(error.value)


def test_a_pickle_in_an_npz_file_is_not_read() -> None:
    np.savez("objects.npz", train_images=np.array([{}], dtype=object), train_labels=np.arange(1))
    with pytest.raises(UserError, match="allow_pickle=False"):
        Arrays("objects.npz")
