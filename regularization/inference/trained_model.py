"""A trained network, read from a checkpoint and ready to use: uint8 images in, probabilities out."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import Tensor, nn

from regularization.data import image_files
from regularization.data.image_files import DecodeError
from regularization.data.preprocess import Preprocess
from regularization.errors import UserError, printable, translate_error
from regularization.models.outputs import split_output
from regularization.runs import checkpoint_config, checkpoint_io, safe_loading

_NETWORK = "network."  # prefix of the network's weights in a checkpoint


class TrainedModel(nn.Module):
    """A network with its preprocessing and the names of its classes.

    Args:
        network: Maps preprocessed images to logits.
        preprocess: Maps uint8 images to the network's input.
        classes: Names of the C classes.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, classes: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.classes = tuple(map(printable, classes))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities, float32 ``(B, C)``, each row summing to 1, for uint8 images ``(B, 3, H, W)`` of any size."""
        logits, _ = split_output(self.network(self.preprocess(pixels)))
        return logits.float().softmax(dim=1)

    @property
    def side(self) -> int:
        """Height and width in pixels that image files are read at, before the preprocessing crops them."""
        side = self.preprocess.resize
        if side is None:
            raise UserError(
                "the network was trained on images that are not square: image files can't be resized for it"
            )
        return side

    def read(self, path: Path | str) -> Tensor:
        """The image file at ``path`` as input for this network, uint8 ``(3, side, side)``.

        Raises:
            UserError: If it can't be read.
        """
        image = image_files.read(Path(path), self.side)
        if isinstance(image, DecodeError):
            raise UserError(str(image))
        return image


def load(checkpoint: Path | str, trust_it: bool = False) -> TrainedModel:
    """Loads a trained network, in evaluation mode on the CPU.

    Args:
        checkpoint: A checkpoint file; or a run folder, which stands for its ``best.ckpt``, or for its ``last.ckpt`` if
            the run was not validated.
        trust_it: Import whatever network class the checkpoint names, not only those of this program, torch,
            torchvision and timm.

    Raises:
        UserError: If the checkpoint is damaged, names a class that is not trusted, or was written by an early version
            that did not store the class names.
    """
    path = _checkpoint_file(Path(checkpoint))
    content = checkpoint_io.read(path)
    checkpoint_io.check_statistics(content, path)
    if "serving" not in content:
        raise UserError(
            f"{path} does not contain its classes and preprocessing; fit --ckpt_path {path} writes one that does"
        )
    try:
        network = _build_network(content["config"]["model"]["network"], trust_it)
        weights = content["state_dict"].items()
        network.load_state_dict({key[len(_NETWORK) :]: tensor for key, tensor in weights if key.startswith(_NETWORK)})
        checkpoint_io.check_finite(network.state_dict(), network, str(path))
        serving = content["serving"]
        model = TrainedModel(network, Preprocess(**serving["preprocess"]), serving["classes"])
        _check_outputs(model)
        return model
    except UserError:
        raise
    except Exception as error:
        if trust_it and not isinstance(error, AttributeError | KeyError | RuntimeError | TypeError | ValueError):
            raise  # from the user's own code
        reason = printable(" ".join(str(error).split())[:200])
        raise UserError(f"{path}: its weights, its network and its classes don't fit together: {reason}") from error


def _check_outputs(model: TrainedModel) -> None:
    """Checks that a network takes an image and has one output per class."""
    with torch.inference_mode():
        outputs = tuple(model(torch.zeros((1, 3, model.side, model.side), dtype=torch.uint8)).shape)
    if outputs != (1, len(model.classes)):
        raise ValueError(
            f"the network's output for one image has shape {outputs}, and there are {len(model.classes)} classes"
        )


def _checkpoint_file(path: Path) -> Path:
    """The checkpoint that ``path``, a file or a run folder, stands for."""
    if not path.is_dir():
        return path
    folder = checkpoint_io.folder_in(path)
    return folder / (checkpoint_io.BEST if (folder / checkpoint_io.BEST).is_file() else checkpoint_io.LAST)


def _build_network(config: Any, trust_it: bool) -> nn.Module:
    """The network that a config of ``model.network`` describes, with random weights.

    Raises:
        UserError: If the config is wrong, or names a class that is not trusted.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)

    def parse(part: Any) -> Namespace:
        try:
            options: Namespace = parser.parse_object({"network": part})
            return options
        except ArgumentError as error:
            raise UserError(translate_error(str(error), [])) from error

    with torch.random.fork_rng(devices=[]), ExitStack() as restrictions:
        if trust_it:
            options = parse(config)
        else:
            restrictions.enter_context(safe_loading.restrict_imports([]))
            options = checkpoint_config.accept(config, parse, set())
        network: nn.Module = parser.instantiate(options).network
    return network
