"""Checks before training that a network fits its images and classes, and says which option to change if not."""

import copy
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn

from regularization.data.image_data import ImageData
from regularization.errors import UserError, did_you_mean
from regularization.models.outputs import split_output

# Sides of images, in pixels, that published networks were made for, and some others.
USUAL_SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)


def check_sizes(network: nn.Module, data: ImageData, training: bool) -> None:
    """Checks ``network`` with each size of the images that ``data`` gives it, see ``check_network``."""
    part = data.train_set or data.test_set
    assert part is not None, "setup() comes first"
    modules = [data.preprocess, data.early_preprocess if training else None]
    for size in {(module.size, module.size) if module.size else part[0].shape for module in modules if module}:
        check_network(network, size, data.num_classes, training)


def check_network(network: nn.Module, size: tuple[int, int], num_classes: int, training: bool) -> None:
    """Applies a copy of ``network`` to two black images.

    Args:
        network: Maps images to logits.
        size: Height and width of the images in pixels.
        num_classes: The number of logits that are needed.
        training: Whether to use training mode, in which networks may need larger images and return more outputs.

    Raises:
        UserError: When the network rejects images of this size and accepts another one; or when it does not return
            logits ``(B, num_classes)``.
    """
    network = copy.deepcopy(network).train(training)
    try:
        output = _apply(network, *size)
    except UserError:
        raise
    except Exception as error:  # networks raise exceptions of any type
        if (accepted := _accepted_size(network, min(size))) is None:
            return  # the size is not the cause: the training shows the error with its traceback
        raise UserError(
            f"{type(network).__name__} does not accept images of {size[0]}×{size[1]} pixels "
            f"({' '.join(str(error).split())[:120]}):\nset --data.image_size {accepted}{_alternative(network, size)}"
        ) from error
    split_output(output, num_classes)


def check_model_name(network: Namespace) -> None:
    """Checks the name of a model of timm in the config of a network.

    Raises:
        UserError: When timm does not know it.
    """
    name = network.get("init_args", {}).get("model_name")
    if network.class_path not in ("timm.create_model", "timm.models.create_model") or not isinstance(name, str):
        return
    import timm

    # Names with a colon or a slash refer to a hub or a folder.
    if not {":", "/"} & set(name) and not timm.is_model(name.partition(".")[0]):
        raise UserError(f"--model.network.model_name: timm has no {name}{did_you_mean(name, timm.list_models())}")


def _apply(network: nn.Module, height: int, width: int) -> Any:
    parameter = next(network.parameters(), torch.empty(0))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return network(torch.zeros(2, 3, height, width, dtype=parameter.dtype, device=parameter.device))


def _accepted_size(network: nn.Module, side: int) -> int | None:
    """The usual size closest to ``side`` that the network accepts, or None if there is none."""
    for size in sorted(USUAL_SIZES, key=lambda usual: abs(usual - side)):
        try:
            _apply(network, size, size)
        except Exception:
            continue
        return size
    return None


def _alternative(network: nn.Module, size: tuple[int, int]) -> str:
    """The option with which some networks are built for images of ``size``."""
    if hasattr(network, "image_size"):  # torchvision
        return f", or --model.network.image_size {size[0]}"
    if hasattr(getattr(network, "patch_embed", None), "img_size"):  # timm
        return f", or --model.network.dict_kwargs.img_size {size[0]}"
    return ""
