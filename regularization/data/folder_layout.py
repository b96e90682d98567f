"""FolderLayout: which folders of a data set hold the training, validation and test images, and their classes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from regularization.data.image_search import SYSTEM_FOLDERS, LeftOut, search, suffixes, summarize
from regularization.errors import UserError, did_you_mean

Part = Literal["train", "val", "test"]

_WORDS: dict[Part, str] = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
_ENDINGS = "(sets?|images?|imgs?|pictures|data|splits?)?"


@dataclass(frozen=True)
class FolderLayout:
    """The folders of a data set that have one folder of images per class.

    Attributes:
        train: The folder with the training images; the root if there is no folder per part.
        val: The folder with the validation images, or None.
        test: The folder with the test images, or None.
        unused: Other folders next to them, which are not used.
    """

    train: Path
    val: Path | None
    test: Path | None
    unused: tuple[LeftOut, ...]


def find_layout(root: str | Path) -> FolderLayout:
    """The layout of ``root``: ``root/<class>/…``, or ``root/train/<class>/…`` with optional ``val`` and ``test``.

    The folders of the parts may have any usual name, such as ``Training``, ``valid`` or ``test_set``.

    Raises:
        UserError: When ``root`` does not exist, or a folder is named like a part of the data but cannot be used as one.
    """
    if not str(root):
        raise UserError("--data.root: give the folder that contains one folder of images per class")
    root = Path(root).expanduser()
    parts: dict[Part, Path] = {}
    # A class may be named train. Its folder then contains images and no subfolders.
    with_folders = [folder for folder in subfolders(root) if any(subfolders(folder))]
    for folder in with_folders:
        if (part := _part(folder.name)) is None:
            continue
        if part in parts:
            raise UserError(f"--data.root: {parts[part]} and {folder} are both named like the {part} images: keep one")
        parts[part] = folder
    others = [folder for folder in subfolders(root) if folder not in parts.values()]
    _check_names(root, parts, others if "train" in parts else with_folders)
    if "train" not in parts:
        return FolderLayout(root, None, None, ())
    unused = tuple(LeftOut(folder, "folders", f"{folder.name}, beside {parts['train'].name}") for folder in others)
    return FolderLayout(parts["train"], parts.get("val"), parts.get("test"), unused)


def subfolders(folder: Path) -> Iterator[Path]:
    """The folders in ``folder``, sorted, without hidden folders and system folders.

    Raises:
        UserError: When ``folder`` does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"--data.root: there is no folder {folder}")
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"--data.root: cannot read {folder}: {error.strerror}") from error
    for path in paths:
        if path.is_dir() and not path.name.startswith(".") and path.name.lower() not in SYSTEM_FOLDERS:
            yield path


def classes_in(folder: Path) -> list[str]:
    """The names of the classes: the names of the folders in ``folder``, sorted.

    Raises:
        UserError: When there are fewer than two, or they are named like the parts of the data.
    """
    names = [path.name for path in subfolders(folder)]
    if len(names) < 2:
        raise UserError(
            f"--data.root: {folder} must contain one folder per class with its images; "
            f"it contains {f'only {names[0]}' if names else 'none'}"
        )
    if len(set(filter(None, map(_part, names)))) > 1:
        split = " and ".join(name for name in names if _part(name))
        raise UserError(
            f"--data.root: {folder} has folders {split}, which are named like parts of the data and contain no "
            "folder per class"
        )
    return names


def files_in(folder: Path, classes: Sequence[str], complete: bool) -> tuple[list[Path], Tensor, list[LeftOut]]:
    """The image files of all ``classes`` in ``folder``, their labels, int64 ``(N,)``, and what is left out.

    Args:
        folder: The folder of a part of the data.
        classes: The names of all classes.
        complete: Whether every class must have images, as for training.

    Raises:
        UserError: When there are no images, or a folder is not among ``classes``.
    """
    present = [path.name for path in subfolders(folder)]
    if unknown := [name for name in present if name not in classes]:
        raise UserError(
            f"{folder / unknown[0]}: there is no class {unknown[0]} among the training images"
            f"{did_you_mean(unknown[0], classes)}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    left_out = _loose_files(folder)
    for label, name in enumerate(classes):
        found = search(folder / name) if name in present else None
        if found is None:
            continue
        if complete and not found.paths:
            raise UserError(f"{folder / name} contains no images{_format_left_out(found.left_out)}")
        paths += found.paths
        labels += [label] * len(found.paths)
        left_out += found.left_out
    if not paths:
        raise UserError(f"{folder} contains no images{_format_left_out(left_out)}")
    return paths, torch.tensor(labels, dtype=torch.int64), left_out


def _part(name: str) -> Part | None:
    """The part of the data that a folder of this ``name`` contains, if it is one of the usual names."""
    letters = re.sub(r"[\W_]+", "", name.lower())
    for part, words in _WORDS.items():
        if re.fullmatch(f"({words}){_ENDINGS}", letters):
            return part
    return None


def _resembled_parts(names: Sequence[str]) -> set[Part]:
    """The parts of the data whose usual names occur as a word in one of ``names``."""
    words = {word for name in names for word in re.findall(r"[a-z]+", name.lower().replace("_", " "))}
    return {part for part, usual in _WORDS.items() if words & set(usual.split("|"))}


def _check_names(root: Path, parts: dict[Part, Path], folders: Sequence[Path]) -> None:
    """Rejects ``folders`` that are named similarly to parts of the data but are not recognized as such."""
    names = [folder.name for folder in folders]
    resembled = _resembled_parts(names)
    # If there is no folder train, a single such folder may be a class, such as train_station.
    if resembled and (parts or len(resembled) > 1):
        looks = ", ".join(name for name in names if _resembled_parts([name]))
        raise UserError(
            f"--data.root: {root} has {looks}, which look like parts of the data and are not understood.\n"
            "Name the parts train, val and test, each with one folder per class, and move other folders elsewhere"
        )


def _loose_files(folder: Path) -> list[LeftOut]:
    """The image files directly in ``folder``, which belong to no class."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    images = ((path, path.suffix.lower()) for path in files)
    return [LeftOut(path, f"{suffix} files", "in no class folder") for path, suffix in images if suffix in suffixes()]


def _format_left_out(left_out: Sequence[LeftOut]) -> str:
    return f"; {summarize(left_out)}" if left_out else ""
