"""HuggingFaceData: data sets that Hugging Face's package ``datasets`` has saved to a folder."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from PIL import Image
from torch import Tensor

from regularization.data.color import on_white, to_upright_rgb
from regularization.data.datasets.parts import PartName, PartsData, class_names, one_line, stack_images
from regularization.data.image_search import formats
from regularization.data.readers import Images, progress_bars_on_terminals
from regularization.errors import UserError, did_you_mean

# Accepted names of the split of each part.
_SPLITS: dict[PartName, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


class HuggingFaceData(PartsData):
    """A data set in a folder that ``save_to_disk`` of Hugging Face's package ``datasets`` has written.

    It needs ``pip install 'regularization[datasets]'``. The folder contains the splits ``train`` and, optionally,
    ``validation`` and ``test``, or a single data set. If there are validation images but no test images, the validation
    images are used for the test. Only images stored in the files of the folder itself are read: nothing is downloaded,
    and nothing else is opened or run. Labels are class labels, integers from 0, or strings.

    Args:
        root: The folder; required.
        image_column: The column of the images; null if there is only one.
        label_column: The column of the labels; null for the only column of class labels, or the one called ``label`` or
            ``labels``.
        memory_gb: Images of one part that need more memory than this are refused.
    """

    def __init__(
        self,
        root: str = "",
        image_column: str | None = None,
        label_column: str | None = None,
        memory_gb: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = Source(_folder(root), image_column, label_column)
        self.memory_gb = memory_gb
        self.classes = _classes(self.source)
        self.num_classes = len(self.classes)

    @classmethod
    def count_classes(cls, options: Namespace) -> int:
        """The number of class labels or of distinct strings; for integers, one more than the highest."""
        return len(_classes(Source(_folder(options.root), options.image_column, options.label_column)))

    def has(self, part: PartName) -> bool:
        """Whether there is a split for ``part``."""
        return _split_of(_open(self.source.root), part) is not None

    def load(self, part: PartName) -> Images:
        """The images of the part, uint8 ``(N, 3, H, W)``."""
        return _read(self.source, part, self.side, self.memory_gb)


class Source(NamedTuple):
    """A folder and the names of its image and label columns; None if a name is to be detected."""

    root: Path
    image_column: str | None
    label_column: str | None


def _folder(root: str) -> Path:
    if not root:
        raise UserError("--data.root: give the folder that save_to_disk has written")
    # The path is made absolute, because ``datasets`` could take a relative path for an address and download from it.
    path = Path(root).expanduser().absolute()
    if not path.is_dir():
        raise UserError(f"--data.root: there is no folder {path}")
    return path


@lru_cache(1)
def _open(root: Path) -> dict[str, Any]:
    """The splits by their names; a single data set is called train."""
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as error:
        raise UserError("HuggingFaceData needs datasets: pip install 'regularization[datasets]'") from error
    try:
        with progress_bars_on_terminals():
            content = load_from_disk(str(root))
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"--data.root: {root} is not a folder that save_to_disk has written: {one_line(error)}"
        raise UserError(message) from error
    splits = dict(content) if isinstance(content, DatasetDict) else {"train": content}
    if "train" not in splits:
        raise UserError(f"--data.root: there is no split train in {root}, only {', '.join(map(str, splits))}")
    return {str(name): split.with_format(None) for name, split in splits.items()}


def _split_of(splits: dict[str, Any], part: PartName) -> str | None:
    """The name of the split of a part; None if there is none."""
    found = {key: next((name for name in names if name in splits), None) for key, names in _SPLITS.items()}
    if found["test"] is None:
        # As in other data sets, validation images are used for the test if there are no test images.
        found = {"train": found["train"], "val": None, "test": found["val"]}
    return found[part]


def _columns(source: Source) -> tuple[str, str]:
    """The names of the columns of images and labels."""
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    features = _open(source.root)["train"].features
    images = [name for name, feature in features.items() if isinstance(feature, ImageFeature)]
    labels = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    labels = labels or [name for name in ("label", "labels") if name in features]
    return (
        _column("image_column", source.image_column, images, list(features)),
        _column("label_column", source.label_column, labels, list(features)),
    )


def _column(option: str, given: str | None, candidates: Sequence[str], columns: Sequence[str]) -> str:
    if given is not None and given not in columns:
        raise UserError(f"--data.{option}: there is no column {given}{did_you_mean(given, columns)}")
    if given is None and len(candidates) != 1:
        raise UserError(f"--data.{option}: give one of the columns {', '.join(candidates or columns)}")
    return candidates[0] if given is None else given


@lru_cache(1)
def _classes(source: Source) -> tuple[str, ...]:
    """The names of the classes, determined from the training images."""
    split = _open(source.root)["train"]
    _, column = _columns(source)
    names = getattr(split.features[column], "names", None)
    values = split[column][:]
    if names is None and all(isinstance(value, str) for value in values):
        names = sorted(set(values))
    return class_names(names, _labels(values, names, f"{source.root.name}: the training"), "--data.label_column")


def _labels(values: Sequence[Any], names: Sequence[str] | None, which: str) -> Tensor:
    """The labels as int64 ``(N,)``; strings become their index in ``names``."""
    numbers = {name: index for index, name in enumerate(names or ())}
    labels = [numbers.get(value, -1) if isinstance(value, str) else value for value in values]
    for label, value in zip(labels, values, strict=True):
        if not isinstance(label, int) or isinstance(label, bool) or label < 0:
            raise UserError(f"{which} images have the label {one_line(value)}, which is not a class label")
    return torch.tensor(labels, dtype=torch.int64)


# Cached, because the trials of a sweep are forked from a process that has read the images.
@lru_cache(3)
def _read(source: Source, part: PartName, side: int | None, memory_gb: float) -> Images:
    splits = _open(source.root)
    split = splits[_split_of(splits, part) or ""]
    image_column, label_column = _columns(source)
    name, classes = f"{part} images of {source.root.name}", _classes(source)
    if label_column not in split.features or image_column not in split.features:
        raise UserError(f"--data.root: the {name} have no column {image_column} or {label_column}")
    labels = _labels(split[label_column][:], classes, f"{source.root.name}: the {part}")
    pixels = stack_images(_decoded(split, image_column, name), len(split), side, memory_gb, name)
    return Images(pixels, labels, classes)


def _decoded(split: Any, column: str, name: str) -> Iterator[Image.Image]:
    """Decodes the images of a split to RGB here: ``datasets`` would open files and URLs that the split refers to."""
    from datasets import Image as ImageFeature

    if isinstance(split.features[column], ImageFeature):
        split = split.cast_column(column, ImageFeature(decode=False))
    for index, item in enumerate(split.select_columns([column])):
        value = item[column]
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise UserError(f"number {index} of the {name} is not an image file but {one_line(value)}")
        try:
            with Image.open(BytesIO(content), formats=formats()) as image:
                decoded = on_white(to_upright_rgb(image))
        except Exception as error:  # Pillow's decoders raise exceptions of any type for damaged images
            raise UserError(f"number {index} of the {name} cannot be decoded: {one_line(error)}") from error
        yield decoded
