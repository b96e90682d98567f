"""The run folder, ``<root>/<config name>/version_N/``: named, claimed, found again, and its ``result.json``."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regularization.mistakes import Mistake

CONFIG = "config.yaml"
METRICS = "metrics.csv"
CURVES = "curves.png"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"


def run_name(configs: Sequence[Path]) -> str:
    """The name of the runs that these config files make: their stems joined by ``+``.

    A run folder's own ``config.yaml`` stands for the name of that run.
    """
    stems = [path.parent.parent.name if path.name == CONFIG else path.stem for path in configs]
    return "+".join(dict.fromkeys(stem for stem in stems if stem)) or "default"


def claim(root: Path, name: str) -> Path:
    """Creates and returns the next free ``root/name/version_N``; two processes never get the same one.

    Raises:
        Mistake: When the folder can't be created.
    """
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
        number = max((version for version, _ in _versions(root, name)), default=-1) + 1
        while True:
            try:
                folder = root / name / f"version_{number}"
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise Mistake(
            f"can't create a run folder in {root / name}: {error.strerror}. "
            "Name one that can be written with --trainer.default_root_dir."
        ) from error


def release(folder: Path) -> None:
    """Takes a claim back: removes ``folder`` if it is empty, and those above it that are empty then."""
    for path in (folder, folder.parent, folder.parent.parent):
        if path.exists() and any(path.iterdir()):
            return
        if path.exists():
            path.rmdir()


def newest_checkpoint(root: Path, name: str, kind: str) -> Path:
    """``checkpoints/<kind>.ckpt`` of the newest run of ``name`` that has one; ``kind`` is last or best.

    Raises:
        Mistake: When there is none.
    """
    for _, folder in sorted(_versions(root, name), reverse=True):
        checkpoint = folder / CHECKPOINTS / f"{kind}.ckpt"
        if checkpoint.is_file():
            return checkpoint
    raise Mistake(
        f"--ckpt_path {kind}: no run in {root / name} has a checkpoint to continue from. "
        "Start one by leaving --ckpt_path out."
    )


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that ``checkpoint`` lies in, or None when it lies elsewhere."""
    folder = checkpoint.parent.parent
    return folder if checkpoint.parent.name == CHECKPOINTS and (folder / CONFIG).is_file() else None


def add_result(folder: Path, values: dict[str, Any]) -> None:
    """Adds ``values`` to the run's ``result.json``, keeping what other commands wrote there."""
    path = folder / RESULT
    known = json.loads(path.read_text()) if path.is_file() else {}
    write_text(path, json.dumps({**known, **values}, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one step, so that a reader sees the old text or the new, never a half."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _versions(root: Path, name: str) -> list[tuple[int, Path]]:
    folders = (root / name).glob("version_*")
    numbered = [(folder.name.removeprefix("version_"), folder) for folder in folders]
    return [(int(number), folder) for number, folder in numbered if number.isdigit()]
