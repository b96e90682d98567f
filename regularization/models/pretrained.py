"""Weights from a file, to go on from: read into a network, and the normalization they were trained with."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from regularization.errors import UserError

# torchvision's files of densenets write norm.1 for what its networks call norm1.
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")
RGB = tuple[float, float, float]


def load_weights(network: nn.Module, path: Path) -> list[str]:
    """Takes over every tensor of the file that ``network`` has; a last layer for other classes stays as it was made.

    The file: a state dict as torchvision and timm offer them, by itself or inside a checkpoint, ours too; or
    safetensors.

    Returns:
        The names of the tensors that stay.

    Raises:
        UserError: When the file can't be read, or is of another network.
    """
    ours = network.state_dict()
    theirs = _unwrapped(_read(path), ours)
    taken = {name: tensor for name, tensor in theirs.items() if name in ours and tensor.shape == ours[name].shape}
    left = [name for name in ours if name not in taken and not name.endswith("num_batches_tracked")]
    unknown = [name for name in theirs if name not in ours]
    if unknown or len({name.rpartition(".")[0] for name in left}) > 1:
        name = (unknown or left)[0]
        there, here = (tuple(had[name].shape) if name in had else "absent" for had in (theirs, ours))
        raise UserError(
            f"--model.weights: {path} is of another network: {name} is {there} there and {here} in "
            f"{type(network).__name__}"
        )
    network.load_state_dict(taken, strict=False)
    return left


def published_normalization(network: Namespace) -> tuple[RGB, RGB] | None:
    """Mean and std that the published weights of a torchvision or timm network were trained with, where known."""
    package, _, name = network.class_path.rpartition(".")
    named = {**network.get("init_args", {}), **(network.get("dict_kwargs") or {})}
    if package.startswith("torchvision.models"):
        from torchvision.models import get_model_weights, list_models

        if name not in list_models():
            return None
        preset: Any = get_model_weights(name).DEFAULT.transforms()
        return (_rgb(preset.mean), _rgb(preset.std)) if hasattr(preset, "mean") else None
    if package.startswith("timm"):
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(named.get("model_name", name), allow_unregistered=True)
        return None if config is None else (_rgb(config.mean), _rgb(config.std))
    return None


def _rgb(values: Sequence[float]) -> RGB:
    red, green, blue = values
    return red, green, blue


def _read(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, without the prefixes that wrappers put before them."""
    if not path.is_file():
        raise UserError(f"--model.weights: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError("--model.weights: a .safetensors file needs pip install safetensors") from error
    except Exception as error:
        raise UserError(f"--model.weights: {path} is damaged, or holds more than tensors") from error
    for inner in ("state_dict", "model"):
        content = content[inner] if isinstance(content, dict) and isinstance(content.get(inner), dict) else content
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"--model.weights: {path} holds no state dict of a network")
    return {_DENSE.sub(r"\1\2.", name): tensor for name, tensor in content.items()}


def _unwrapped(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """``theirs`` without the prefix that DataParallel, or our own classifier, puts before a network's names."""
    for prefix in ("", "module.", "network."):
        inner = {name.removeprefix(prefix): tensor for name, tensor in theirs.items() if name.startswith(prefix)}
        if inner.keys() & ours.keys():
            return inner
    return theirs
