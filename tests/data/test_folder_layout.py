"""The folders that are found as the parts of a data set, under all usual names, and those that are refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from regularization import ImageFolder, UserError
from regularization.data.folder_layout import find_layout
from tests.data.test_image_folder import draw


def make(*files: str) -> None:
    for file in files:
        (Path("data") / file).parent.mkdir(parents=True, exist_ok=True)
        (Path("data") / file).touch()


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAINING", "VALIDATION", "TESTING"),
        ("training_set", "valid", "test_set"),
        ("train-images", "dev", "testImages"),
    ],
)
def test_usual_names_of_the_parts_are_understood(train: str, val: str, test: str) -> None:
    make(*(f"{part}/{name}/1.png" for part in (train, val, test) for name in ("cat", "dog")))
    layout = find_layout("data")
    assert [path and path.name for path in (layout.train, layout.val, layout.test)] == [train, val, test]
    assert ImageFolder(root="data").num_classes == 2


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["Train/cat/1.png", "train2/cat/1.png"], "train2"),
        (["train/cat/1.png", "test/1.png"], "test"),
        (["train/cat/1.png", "old test/1.png"], "old test"),
        (["train/cat/1.png", "val/cat/1.png", "valid/cat/1.png"], "val and .*valid are both named like the val images"),
        (["cat/1.png", "dog/1.png", "test/cat/1.png"], "test"),
        (["val/cat/1.png", "test/cat/1.png"], "test, val"),
        (["seg_train/cat/1.png", "seg_test/cat/1.png"], "seg_test, seg_train"),
        (["train/1.png", "test/1.png"], "test and train"),
        (["Train/1.png", "valid/1.png", "cat/1.png"], "Train and valid"),
    ],
)
def test_what_looks_like_a_part_and_is_not_understood_is_refused_by_name(files: list[str], named: str) -> None:
    make(*files)
    with pytest.raises(UserError, match=f"^--data.root: data.*{named}"):
        ImageFolder(root="data")


@pytest.mark.parametrize("name", ["train", "train_station", "test_tube", "validator"])
def test_classes_may_be_named_like_parts(name: str) -> None:
    make("plane/1.png", f"{name}/1.png", "bus/2019/1.png")
    assert ImageFolder(root="data").classes == sorted(["plane", "bus", name])


def test_the_current_folder_may_be_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    make("cat/1.png", "dog/1.png")
    monkeypatch.chdir("data")
    assert ImageFolder(root=".").num_classes == 2
    with pytest.raises(UserError, match="give the folder"):
        ImageFolder()


def test_validation_and_test_images_may_lack_a_class() -> None:
    draw(Path("data/train"), {"cat": 5, "dog": 5, "owl": 5})
    draw(Path("data/valid"), {"dog": 3})
    draw(Path("data/test"), {"cat": 2, "owl": 2})
    Path("data/test/dog").mkdir()
    data = ImageFolder(root="data", image_size=16)
    data.setup("fit")
    data.setup("test")
    assert data.val_set is not None
    assert data.val_set[0].labels.tolist() == [1, 1, 1]
    assert data.test_set is not None
    assert data.test_set[0].labels.tolist() == [0, 0, 2, 2]
    Path("data/train/emu").mkdir()
    with pytest.raises(UserError, match="data/train/emu contains no images"):
        ImageFolder(root="data").setup("fit")


def test_a_folder_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    make("cat/1.png", "dog/1.png")
    iterdir = Path.iterdir

    def locked(path: Path) -> Iterator[Path]:
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", locked)
    with pytest.raises(UserError, match=r"--data\.root: cannot read data/dog: Permission denied"):
        find_layout("data")


def test_thumbnails_are_not_trained_on() -> None:
    draw(Path("data"), {"cat": 6, "dog": 6, "@eaDir": 2, "cat/@eaDir": 2, "dog/Thumbnails": 2, "dog/more": 2})
    data = ImageFolder(root="data", image_size=16, val_size=None, test_size=0)
    data.setup("fit")
    assert data.classes == ["cat", "dog"]
    assert data.train_set is not None
    assert len(data.train_set[0]) == 6 + 6 + 2
    assert "left out: 2 folders (thumbnails or system files)" in data.describe()


def test_fit_says_what_is_left_out() -> None:
    draw(Path("data/Train"), {"cat": 4, "dog": 4})
    draw(Path("data/Test"), {"cat": 4, "dog": 4})
    make("Train/cat/a.psd", "Train/dog/b.PSD", "Test/dog/notes", "Train/loose.png", "unlabelled/1.png")
    Path("data/Train/dog/gone.png").symlink_to("nowhere.png")
    Path("data/Test/dog/linked").symlink_to(Path("data/Train/dog").absolute(), target_is_directory=True)
    data = ImageFolder(root="data", image_size=16, val_size=0.5)
    data.setup("fit")
    reported = set(data.describe().splitlines()[-1].removeprefix("left out: ").split(", 1 "))
    assert reported == {
        "2 .psd files (not a supported image format)",
        "file without suffix (not a supported image format)",
        ".png file (in no class folder)",
        ".png file (broken links)",
        "folder (links to folders are not followed)",
        "folder (unlabelled, beside Train)",
    }
