"""A trained network, ready to use: read from a checkpoint, uint8 images in, probabilities out."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regularization.data import image_files
from regularization.data.image_files import DecodeError
from regularization.data.preprocess import Preprocess
from regularization.errors import UserError
from regularization.runs import checkpoint_io, directory, safe_loading
from regularization.training.parser import Parser


class TrainedModel(nn.Module):
    """A network with its preprocessing and the names of its classes.

    Args:
        network: Maps the preprocessed input to logits.
        preprocess: From uint8 images to that input.
        classes: The C names.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, classes: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.classes = tuple(classes)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities float32 ``(B, C)``, each row summing to 1, of uint8 images ``(B, 3, H, W)``, any H and W."""
        logits: Tensor = self.network(self.preprocess(pixels))
        return logits.float().softmax(dim=1)

    @property
    def side(self) -> int:
        """Height and width that pictures are read at, in pixels: what is cut out of them lies within."""
        side = self.preprocess.resize
        if side is None:
            raise UserError(
                "the network was trained on images that are no squares: pictures can't be brought to their size"
            )
        return side

    def read(self, path: Path | str) -> Tensor:
        """The picture in a file as this network takes it, uint8 ``(3, side, side)``.

        Raises:
            UserError: When it can't be read.
        """
        picture = image_files.read(Path(path), self.side)
        if isinstance(picture, DecodeError):
            raise UserError(str(picture))
        return picture


def load(checkpoint: Path | str, trust_it: bool = False) -> TrainedModel:
    """The network in the file ``checkpoint``, in evaluation mode on the CPU.

    Args:
        checkpoint: A ``best.ckpt`` or ``last.ckpt``; a run's folder stands for its best one, or its last one where
            nothing was validated.
        trust_it: Run whatever network class it names, not only those of this program, torch, torchvision and timm.

    Raises:
        UserError: When it is damaged, names a class that is not trusted, or was written before checkpoints knew classes.
    """
    path = Path(checkpoint)
    if path.is_dir():
        kept = path / directory.CHECKPOINTS
        # A run without validation has no best one.
        path = kept / (checkpoint_io.BEST if (kept / checkpoint_io.BEST).is_file() else checkpoint_io.LAST)
    content = checkpoint_io.read(path)
    if "serving" not in content:
        raise UserError(
            f"{path} does not hold its classes and preprocessing; fit --ckpt_path {path} writes one that does"
        )
    try:
        with ExitStack() as guard:
            config = content["config"]["model"]["network"]
            if not trust_it:
                guard.enter_context(safe_loading.restrict_imports([]))
                config = safe_loading.strip_download_options(config)
            network = _network(config)
        named = content["state_dict"].items()
        state = {name[8:]: tensor for name, tensor in named if name.startswith("network.")}
        network.load_state_dict(state)
        serving = content["serving"]
        return TrainedModel(network, Preprocess(**serving["preprocess"]), serving["classes"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights, its network and its classes don't go together: {said}") from error


def _network(config: Any) -> nn.Module:
    """The network that a config of ``model.network`` describes, its weights not yet loaded."""
    parser = Parser()
    parser.add_argument("--network", type=nn.Module)
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = parser.instantiate(parser.parse_object({"network": config})).network
    return network
