"""Options that one config chose for a class, and another config or the command line leaves to another class."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from jsonargparse import Namespace

from regularization.training.configs import Config


def inherited_weight_decay(
    optimizer: Namespace, paths: Sequence[Path], configs: Sequence[Config], options: Sequence[str]
) -> Iterator[str]:
    """Warnings: the λ of one optimizer is seldom right for another one that the command line names."""
    if any(word.split("=")[0].endswith("optimizer.weight_decay") for word in options):
        return
    for path, config in zip(paths, configs, strict=True):
        value = (config.get("model") or {}).get("optimizer") or {}
        value = {"class_path": value} if isinstance(value, str) else value
        names = [str(name).rpartition(".")[2] for name in (value.get("class_path", ""), optimizer.class_path)]
        strength = (value.get("init_args") or {}).get("weight_decay")
        if names[0] and strength and names[0] != names[1] and strength == optimizer.init_args.get("weight_decay"):
            yield (
                f"weight_decay {strength} was chosen for {names[0]} in {path.name}; {names[1]} applies it differently, "
                "so set it explicitly"
            )
