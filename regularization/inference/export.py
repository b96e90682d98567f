"""A trained network as one file that takes uint8 images and gives probabilities."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from regularization.errors import UserError
from regularization.inference.trained_model import TrainedModel
from regularization.runs import directory

METADATA = "classes"


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


def largest_difference(model: TrainedModel, path: Path, kind: str) -> float | None:
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
