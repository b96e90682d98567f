"""The command ``export``: a checkpoint as one file that takes uint8 images and gives probabilities."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from regularization.errors import UserError
from regularization.inference.trained_model import TrainedModel, load
from regularization.runs import directory, safe_loading
from regularization.training.parser import Parser

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
METADATA = "classes"


def parser() -> Parser:
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
    asked = parser().parse_args(args)
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
    if (difference := _difference(model, path, asked.format)) is not None:
        print(f"on 8 random images the largest difference of a probability from the checkpoint's is {difference:.1e}")


def write_torch(model: TrainedModel, path: Path) -> None:
    """For ``torch.export.load(path).module()``; ``extra_files={"classes": ""}`` brings the names."""
    with directory.atomic_write(path) as aside:
        torch.export.save(_program(model), aside, extra_files={METADATA: json.dumps(model.classes)})


def write_onnx(model: TrainedModel, path: Path) -> None:
    """Input ``pixels``, output ``probabilities``; metadata ``classes``.

    Raises:
        UserError: When the packages that write ONNX are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - what torch writes ONNX with
    except ImportError as error:
        raise UserError("--format onnx needs: pip install 'regularization[export]'") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    made = torch.onnx.export(
        _program(model), dynamo=True, verbose=False, input_names=["pixels"], output_names=["probabilities"]
    )
    assert made is not None
    proto = made.model_proto
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(model.classes)})
    with directory.atomic_write(path) as aside:
        onnx.save(proto, aside)


def _program(model: TrainedModel) -> ExportedProgram:
    """The network as a graph for any number of images of any size."""
    # Two images, neither square nor of the network's size: a number that is 1 or equal to another would become fixed.
    example = torch.zeros((2, 3, model.side + 3, model.side + 5), dtype=torch.uint8)
    sizes = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, (example,), dynamic_shapes={"pixels": sizes})


def _difference(model: TrainedModel, path: Path, kind: str) -> float | None:
    """On random images of the training data's size; None where ONNX Runtime is not installed."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, model.side, model.side), dtype=torch.uint8, generator=generator)
    theirs: Any
    if kind == "torch":
        theirs = torch.export.load(path).module()(pixels)
    else:
        try:
            import onnxruntime
        except ImportError:
            return None
        theirs = torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"pixels": pixels.numpy()})[0])
    with torch.inference_mode():
        ours: Tensor = model(pixels)
    return float((ours - theirs).abs().max())
