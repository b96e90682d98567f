"""Weights from a file: loaded into a network, with the normalization that they were trained with."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from regularization.errors import UserError
from regularization.runs import checkpoint_io

# torchvision's files of DenseNets use names with norm.1 for what its networks call norm1.
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")
RGB = tuple[float, float, float]


def load_weights(network: nn.Module, path: Path) -> list[str]:
    """Loads the tensors of a file into ``network``, except for a last layer with another number of classes.

    The file is safetensors, or a state dict as torchvision and timm publish them, either alone or inside a checkpoint,
    including those of this program.

    Returns:
        The names of the tensors that were not in the file with the right shape, and were not changed.

    Raises:
        UserError: If the file cannot be read, or is from another network.
    """
    own = network.state_dict()
    loaded = _without_prefix(_read(path), own)
    matching = {name: tensor for name, tensor in loaded.items() if name in own and tensor.shape == own[name].shape}
    missing = [name for name in own if name not in matching and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in loaded if name not in own]
    if unexpected or len({name.rpartition(".")[0] for name in missing}) > 1:
        name = (unexpected or missing)[0]
        loaded_shape, own_shape = (tuple(state[name].shape) if name in state else "absent" for state in (loaded, own))
        raise UserError(
            f"--model.weights: {path} is from another network: {name} is {loaded_shape} in the file and {own_shape} in "
            f"{type(network).__name__}"
        )
    checkpoint_io.check_finite(matching, network, f"--model.weights: {path}")
    network.load_state_dict(matching, strict=False)
    return missing


def published_normalization(network: Namespace) -> tuple[RGB, RGB] | None:
    """Mean and standard deviation per channel with which the published weights of a network were trained.

    Args:
        network: The config of the network, with its ``class_path`` and arguments.

    Returns:
        Both, for a network of torchvision or timm that has them; otherwise None.
    """
    package, _, name = network.class_path.rpartition(".")
    options = {**network.get("init_args", {}), **(network.get("dict_kwargs") or {})}
    if package.startswith("torchvision.models"):
        from torchvision.models import get_model_weights, list_models

        if name not in list_models():
            return None
        preset: Any = get_model_weights(name).DEFAULT.transforms()
        return (_rgb(preset.mean), _rgb(preset.std)) if hasattr(preset, "mean") else None
    if package.startswith("timm"):
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(options.get("model_name", name), allow_unregistered=True)
        return None if config is None else (_rgb(config.mean), _rgb(config.std))
    return None


def _rgb(values: Sequence[float]) -> RGB:
    red, green, blue = values
    return red, green, blue


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of the file by name."""
    if not path.is_file():
        raise UserError(f"--model.weights: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            if zipfile.is_zipfile(path):
                checkpoint_io.check_sizes(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError("--model.weights: to read a .safetensors file, run pip install safetensors") from error
    except UserError as error:
        raise UserError(f"--model.weights: {error}") from error
    except Exception as error:
        raise UserError(f"--model.weights: {path} is damaged, or contains more than tensors") from error
    for key in ("state_dict", "model"):
        content = content[key] if isinstance(content, dict) and isinstance(content.get(key), dict) else content
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"--model.weights: {path} does not contain the state dict of a network")
    return {_DENSE.sub(r"\1\2.", name): tensor for name, tensor in content.items()}


def _without_prefix(loaded: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """``loaded`` without the prefix that DataParallel, or a checkpoint of this program, puts before each name."""
    for prefix in ("", "module.", "network."):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in loaded.items() if name.startswith(prefix)}
        if tensors.keys() & own.keys():
            return tensors
    return loaded
