"""Weights from a file: loaded into a network, with the normalization that they were trained with."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from regularization.errors import UserError
from regularization.models.weight_files import read_state_dicts
from regularization.runs import checkpoint_io

RGB = tuple[float, float, float]
MAX_NAMES_SHOWN = 4
MAX_CLASS_TOKENS = 8  # the class, distillation and register tokens of a transformer


@dataclass(frozen=True)
class LoadedWeights:
    """The result of loading a file of weights into a network; ``str`` summarizes it in one line.

    Attributes:
        path: The file.
        prefix: The prefix that the names in the file have before those of the network.
        matched: The names of the network's tensors that were loaded.
        resampled: The loaded tensors that are position embeddings of another image size, and were resampled.
        missing: The names of the network's tensors that were not changed.
        left: The names of the file's tensors that were not used.
    """

    path: Path
    prefix: str
    matched: list[str]
    resampled: list[str]
    missing: list[str]
    left: list[str]

    def __str__(self) -> str:
        parts = [f"{self.path}: {len(self.matched)} tensors loaded"]
        parts += [f"with the prefix {self.prefix} removed"] if self.prefix else []
        parts += [f"resampled: {_format_names(self.resampled)}"] if self.resampled else []
        parts += [f"not in the file, left as they were: {_format_names(self.missing)}"] if self.missing else []
        parts += [f"in the file, not used: {_format_names(self.left)}"] if self.left else []
        return "; ".join(parts)


def load_weights(network: nn.Module, path: Path) -> LoadedWeights:
    """Loads the tensors of a file into ``network``, except for a last layer with another number of classes.

    The file is in safetensors format, or contains a state dict as torchvision and timm publish them, either alone or
    inside a checkpoint of any program. Its names may have any prefix before those of the network.

    Raises:
        UserError: If the file cannot be read, or is from another network.
    """
    own = network.state_dict()
    prefix, loaded = _best_match(read_state_dicts(path), own)
    inside = {name.removeprefix(prefix): tensor for name, tensor in loaded.items() if name.startswith(prefix)}
    resampled = resample_position_embeddings(inside, own)
    inside |= resampled
    matching = {name: tensor for name, tensor in inside.items() if name in own and tensor.shape == own[name].shape}
    missing = [name for name in own if name not in matching and not name.endswith("num_batches_tracked")]
    left = [name for name in loaded if name.removeprefix(prefix) not in matching or not name.startswith(prefix)]
    if wrong := _first_mismatch(inside, own, matching, missing):
        in_file, in_network = (tuple(state[wrong].shape) if wrong in state else "absent" for state in (inside, own))
        raise UserError(
            f"--model.weights: {path} is from another network: {wrong} is {in_file} in the file and {in_network} in "
            f"{type(network).__name__}"
        )
    checkpoint_io.check_finite(matching, network, f"--model.weights: {path}")
    network.load_state_dict(matching, strict=False)
    return LoadedWeights(path, prefix, list(matching), list(resampled), missing, left)


def _best_match(candidates: list[dict[str, Tensor]], own: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The name prefix and the state dict with the most matching tensors of ``own``; the first one in case of a tie."""
    best: tuple[int, str, dict[str, Tensor]] = (-1, "", {})
    for loaded in candidates:
        prefixes = Counter({"": 0})
        for name, tensor in loaded.items():
            parts = name.split(".")
            for start in range(len(parts)):
                ending = ".".join(parts[start:])
                if ending in own and own[ending].shape == tensor.shape:
                    prefixes[name.removesuffix(ending)] += 1
        prefix, matches = prefixes.most_common(1)[0]
        if matches > best[0]:
            best = matches, prefix, loaded
    return best[1:]


def _first_mismatch(
    loaded: dict[str, Tensor], own: dict[str, Tensor], matching: dict[str, Tensor], missing: list[str]
) -> str | None:
    """The first name which shows that ``loaded`` belongs to another network; None if it fits.

    The last layer, also that of an auxiliary classifier, may be missing or have another number of classes. The file may
    have further parts, such as the head of another task, but not further layers in a part that the network has.
    """
    own_parts = {name.partition(".")[0] for name in own} - {name.partition(".")[0] for name in missing}
    unexpected = [name for name in loaded if name not in own and name.partition(".")[0] in own_parts]
    unexpected = [name for name in unexpected if not name.endswith("num_batches_tracked")]
    last_layers = {name.rpartition(".")[0] for name in missing}
    heads = [name for name in missing if name in loaded and loaded[name].shape[1:] == own[name].shape[1:]]
    # Several layers are last ones if all of them have the new number of classes in place of the old one.
    numbers = {(loaded[name].shape[:1], own[name].shape[:1]) for name in heads}
    allowed = len({name.rpartition(".")[0] for name in heads}) if len(numbers) == 1 else 1
    if unexpected or not matching or len(last_layers) > max(1, allowed):
        foreign = [name for name in loaded if name not in own]
        return next(iter([*unexpected, *foreign, *missing]), None)
    return None


def resample_position_embeddings(loaded: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resamples position embeddings in ``loaded`` to the numbers of patches in ``own``, as timm does.

    Position embeddings are tensors ``(1, T + h·w, D)`` with a name that ends with ``pos_embed`` (timm) or
    ``pos_embedding`` (torchvision), with T class tokens before a square grid of patches.
    """
    resampled = {}
    for name, tensor in own.items():
        if name in loaded and name.endswith(("pos_embed", "pos_embedding")) and loaded[name].ndim == tensor.ndim == 3:
            positions = loaded[name].shape[1], tensor.shape[1]
            if positions[0] != positions[1] and (tokens := _class_tokens(*positions)) is not None:
                resampled[name] = _resample(loaded[name], tokens, positions[1])
    return resampled


def _class_tokens(old: int, new: int) -> int | None:
    """The number of class tokens for which both numbers of patches, the remaining positions, are squares."""
    for tokens in range(MAX_CLASS_TOKENS + 1):
        patches = [positions - tokens for positions in (old, new)]
        if min(patches) > 0 and all(math.isqrt(number) ** 2 == number for number in patches):
            return tokens
    return None


def _resample(embedding: Tensor, tokens: int, length: int) -> Tensor:
    """A position embedding ``(1, N, D)`` for ``length`` positions; bicubic and antialiased."""
    old, new = math.isqrt(embedding.shape[1] - tokens), math.isqrt(length - tokens)
    grid = embedding[:, tokens:].float().movedim(-1, 1).reshape(1, -1, old, old)
    grid = nn.functional.interpolate(grid, (new, new), mode="bicubic", antialias=True)
    patches = grid.flatten(2).movedim(1, -1).to(embedding.dtype)
    return torch.cat([embedding[:, :tokens], patches], dim=1)


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


def _format_names(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (
        f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    )
