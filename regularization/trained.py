"""A trained network, ready to use: read from a checkpoint, uint8 images in, probabilities out."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from regularization import checkpoints, runs, trust
from regularization.data import pictures
from regularization.data.pictures import Refused
from regularization.data.preprocess import Preprocess
from regularization.mistakes import Mistake
from regularization.parser import Parser

# Options of torchvision's and timm's networks that would fetch other weights than the checkpoint's.
_FETCHING = {"weights", "weights_backbone", "pretrained", "checkpoint_path"}


class Trained(nn.Module):
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
            raise Mistake(
                "the network was trained on images that are no squares: pictures can't be brought to their size"
            )
        return side

    def read(self, path: Path | str) -> Tensor:
        """The picture in a file as this network takes it, uint8 ``(3, side, side)``.

        Raises:
            Mistake: When it can't be read.
        """
        picture = pictures.read(Path(path), self.side)
        if isinstance(picture, Refused):
            raise Mistake(str(picture))
        return picture


def load(checkpoint: Path | str, trust_it: bool = False) -> Trained:
    """The network in the file ``checkpoint``, in evaluation mode on the CPU.

    Args:
        checkpoint: A ``best.ckpt`` or ``last.ckpt``; a run's folder stands for its best one.
        trust_it: Run whatever network class it names, not only those of this program, torch, torchvision and timm.

    Raises:
        Mistake: When it is damaged, names a class that is not trusted, or was written before checkpoints knew classes.
    """
    path = Path(checkpoint)
    path = path / runs.CHECKPOINTS / checkpoints.BEST if path.is_dir() else path
    content = checkpoints.read(path)
    if "serving" not in content:
        raise Mistake(
            f"{path} does not hold its classes and preprocessing; fit --ckpt_path {path} writes one that does"
        )
    with ExitStack() as guard:
        if not trust_it:
            guard.enter_context(trust.guarded([]))
        network = _network(content["config"]["model"]["network"])
    prefix = "network."
    state = {name.removeprefix(prefix): tensor for name, tensor in content["state_dict"].items() if prefix in name}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise Mistake(f"{path}: its weights are not those of the network it names: {error}") from error
    serving = content["serving"]
    return Trained(network, Preprocess(**serving["preprocess"]), serving["classes"])


def _network(config: Any) -> nn.Module:
    """The network that a config of ``model.network`` describes, its weights not yet loaded."""
    named: dict[str, Any] = {"class_path": config} if isinstance(config, str) else dict(config)
    for part in ("init_args", "dict_kwargs"):
        kept = {name: value for name, value in (named.get(part) or {}).items() if name not in _FETCHING}
        named = {**named, part: kept} if kept else {key: value for key, value in named.items() if key != part}
    parser = Parser()
    parser.add_argument("--network", type=nn.Module)
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = parser.instantiate(parser.parse_object({"network": named})).network
    return network
