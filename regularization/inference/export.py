"""A trained network as one file: uint8 images in, probabilities out."""

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


def write(model: TrainedModel, path: Path, file_format: str) -> None:
    """Writes ``model`` as a file in the ``file_format`` ``"torch"`` or ``"onnx"``.

    Raises:
        UserError: If packages are missing, or PyTorch can't export the network.
    """
    write_format = write_onnx if file_format == "onnx" else write_torch
    try:
        write_format(model, path)
    except UserError:
        raise
    except Exception as error:  # exporters raise exceptions of any kind
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(
            f"PyTorch {torch.__version__} can't export this network (tested with 2.14 and newer): {reason}"
        ) from error


def write_torch(model: TrainedModel, path: Path) -> None:
    """Writes a file for ``torch.export.load(path).module()``; ``extra_files={"classes": ""}`` gets the class names."""
    program = _export(model)
    with directory.atomic_write(path) as temporary:
        try:
            torch.export.save(program, temporary, extra_files={METADATA: json.dumps(model.classes)})
        except RuntimeError as error:
            if "PytorchStreamWriter" not in str(error):
                raise
            # torch's archive writer hides why the file could not be written.
            raise OSError(str(error).partition("\n")[0]) from error


def write_onnx(model: TrainedModel, path: Path) -> None:
    """Writes an ONNX file with input ``pixels``, output ``probabilities`` and the metadata ``classes``, as JSON.

    The input is uint8 ``(batch, 3, height, width)``, and the output float32 ``(batch, C)``.

    Raises:
        UserError: If the packages that write ONNX are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise UserError("--format onnx needs more packages: pip install 'regularization[export]'") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        _export(model), dynamo=True, verbose=False, input_names=["pixels"], output_names=["probabilities"]
    )
    assert program is not None
    proto = program.model_proto
    _name_sizes(proto.graph)
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(model.classes)})
    with directory.atomic_write(path) as temporary:
        onnx.save(proto, temporary)


def _name_sizes(graph: Any) -> None:
    """Renames the sizes of the input to ``batch``, ``height`` and ``width``; PyTorch calls them s0, s1, and so on."""
    sizes = [size.dim_param for size in graph.input[0].type.tensor_type.shape.dim]
    names = {old: new for old, new in zip(sizes, ("batch", "", "height", "width"), strict=True) if old and new}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def _export(model: TrainedModel) -> ExportedProgram:
    """The model as a graph for images ``(B, 3, H, W)`` of any B, H and W."""
    # The exporter would make a size static if it is 1 or equal to another one. So the example has two images, which are
    # neither square nor of the size model.side.
    example = torch.zeros((2, 3, model.side + 3, model.side + 5), dtype=torch.uint8)
    sizes = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, (example,), dynamic_shapes={"pixels": sizes})


def largest_difference(model: TrainedModel, path: Path, file_format: str) -> float | None:
    """The largest difference of a probability between ``model`` and the file, on 8 random images.

    Args:
        model: The model that was exported.
        path: The file that was written.
        file_format: ``"torch"`` or ``"onnx"``.

    Returns:
        None if the file is ONNX and ONNX Runtime is not installed.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, model.side, model.side), dtype=torch.uint8, generator=generator)
    exported: Any
    if file_format == "torch":
        exported = torch.export.load(path).module()(pixels)
    else:
        try:
            import onnxruntime
        except ImportError:
            return None
        exported = torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"pixels": pixels.numpy()})[0])
    with torch.inference_mode():
        expected: Tensor = model(pixels)
    return float((expected - exported).abs().max())
