"""The command ``export``: a checkpoint as one file that takes uint8 images and gives probabilities."""

from pathlib import Path
from typing import Literal

import torch

from regularization.errors import UserError
from regularization.inference.export import largest_difference, write_onnx, write_torch
from regularization.inference.trained_model import load
from regularization.runs import safe_loading
from regularization.training.parser import Parser

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def make_parser() -> Parser:
    """The options of ``export``."""
    about = (
        "Writes a trained network as one file. It takes uint8 images (B, 3, H, W) of any size and gives probabilities "
        "(B, C): resize, crop and normalization are inside. The names of the classes are in its metadata, as JSON."
    )
    made = Parser(prog="regularization export", description=about)
    made.add_argument("--ckpt_path", type=Path, required=True, help="A checkpoint of a run, or the run's folder.")
    kinds = "onnx for ONNX Runtime and others; torch for torch.export.load, without this program."
    made.add_argument("--format", type=Literal["onnx", "torch"], default="onnx", help=kinds)
    made.add_argument("--output", type=Path | None, default=None, help="The file; by default best.onnx or best.pt2.")
    made.add_argument("--trust", action="store_true", help=safe_loading.HELP)
    return made


def export(args: list[str]) -> None:
    """Writes the file, and compares what it says with what the checkpoint says."""
    asked = make_parser().parse_args(args)
    model = load(asked.ckpt_path, asked.trust)
    kept = Path(asked.ckpt_path)
    path = asked.output or Path(("best" if kept.is_dir() else kept.stem) + SUFFIXES[asked.format])
    if path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise UserError(f"--output: {path} can't be a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write = write_onnx if asked.format == "onnx" else write_torch
    try:
        write(model, path)
    except UserError:
        raise
    except Exception as error:  # exporters raise whatever they like
        said = str(error).strip().partition("\n")[0][:200]
        raise UserError(
            f"PyTorch {torch.__version__} can't export this network (2.14 and newer were tried): {said}"
        ) from error
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, classes {', '.join(model.classes[:10])}")
    if (difference := largest_difference(model, path, asked.format)) is not None:
        print(f"on 8 random images the largest difference of a probability from the checkpoint's is {difference:.1e}")
