"""The command ``export``."""

from pathlib import Path
from typing import Literal

from regularization.errors import UserError, printable
from regularization.runs import safe_loading
from regularization.training.parser import Parser

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def make_parser() -> Parser:
    """The options of ``export``."""
    description = (
        "Writes a trained network as one file. It takes uint8 images (B, 3, H, W) of any size and returns "
        "probabilities (B, C): resizing, cropping and normalization are included. The class names are in its metadata, "
        "as JSON."
    )
    parser = Parser(prog="regularization export", description=description)
    checkpoint = "A checkpoint, or a run folder, whose best checkpoint is used."
    parser.add_argument("--ckpt_path", type=Path, required=True, help=checkpoint)
    formats = "onnx, for ONNX Runtime and others; or torch, for torch.export.load, which does not need this program."
    parser.add_argument("--format", type=Literal["onnx", "torch"], default="onnx", help=formats)
    output = "The file to write. By default it is named like the checkpoint, such as best.onnx or best.pt2."
    parser.add_argument("--output", type=Path | None, default=None, help=output)
    parser.add_argument("--trust", action="store_true", help=safe_loading.HELP)
    return parser


def export(args: list[str]) -> None:
    """Writes the file, and compares its probabilities with those of the checkpoint."""
    options = make_parser().parse_args(args)
    # Imported after parsing, because they import torch.
    from regularization.inference.export import largest_difference, write
    from regularization.inference.trained_model import load
    from regularization.runs.directory import created_folder

    model = load(options.ckpt_path.expanduser(), options.trust)
    stem = "best" if options.ckpt_path.is_dir() else options.ckpt_path.stem
    path = (options.output or Path(stem + SUFFIXES[options.format])).expanduser()
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder, not a file")
    created_folder(path.parent)
    write(model, path, options.format)
    print(f"{printable(path)}: {path.stat().st_size / 1e6:.1f} MB, classes {', '.join(model.classes[:10])}")
    if (difference := largest_difference(model, path, options.format)) is not None:
        print(f"largest difference from the checkpoint's probabilities, on 8 random images: {difference:.1e}")
