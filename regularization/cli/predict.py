"""The command ``predict``: names what is on pictures."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from regularization.callbacks.curves import save
from regularization.data import image_files
from regularization.data.image_files import DecodeError, printable
from regularization.errors import UserError
from regularization.inference.contact_sheet import contact_sheet
from regularization.inference.trained_model import TrainedModel, load
from regularization.runs import directory, safe_loading
from regularization.training.parser import Parser

TABLE = "predictions.csv"
SHEET = "predictions.png"
PRINTED = 10
SHOWN = 24
TOP = 5
BATCH = 64


def make_parser() -> Parser:
    """The options of ``predict``."""
    made = Parser(prog="regularization predict", description="Names what is on pictures, by a trained network.")
    made.add_argument("--ckpt_path", type=Path, required=True, help="A checkpoint of a run, or the run's folder.")
    made.add_argument("--images", type=Path, nargs="+", required=True, help="Pictures, or folders that are searched.")
    made.add_argument("--output", type=Path, default=Path(), help=f"The folder that {TABLE} and {SHEET} go to.")
    made.add_argument("--trust", action="store_true", help=safe_loading.HELP)
    return made


def predict(args: list[str]) -> None:
    """Writes each picture's classes to ``predictions.csv`` and shows the first of them on ``predictions.png``.

    What can't be read is named with its reason, and the rest goes on.
    """
    asked = make_parser().parse_args(args)
    model = load(asked.ckpt_path, asked.trust).to("cuda" if torch.cuda.is_available() else "cpu")
    paths = _found(asked.images, asked.output / SHEET)
    if asked.output.exists() and not asked.output.is_dir():
        raise UserError(f"--output: {asked.output} is a file, not a folder")
    guesses: list[tuple[Path, Tensor]] = []
    seen: list[Tensor] = []
    refused = 0
    for path, picture, shares in _predicted(model, paths):
        if isinstance(picture, DecodeError):
            refused += 1
            print(f"refused: {printable(path)}: {picture.reason}", file=sys.stderr)
            continue
        guesses.append((path, shares))
        if len(seen) < SHOWN:
            seen.append(picture)
    if not guesses:
        raise UserError(f"none of the {len(paths)} pictures can be read")
    asked.output.mkdir(parents=True, exist_ok=True)
    _write(guesses, model.classes, asked.output / TABLE)
    captions = [f"{_short(path.name)}\n{_said(shares, model.classes)}" for path, shares in guesses[: len(seen)]]
    save(contact_sheet(seen, captions), asked.output / SHEET)
    _print(guesses, model.classes)
    print(f"{len(guesses)} pictures named, {refused} refused\n{asked.output / TABLE}\n{asked.output / SHEET}")


def _found(places: Sequence[Path], ours: Path) -> list[Path]:
    """The picture files that were named, or that lie in folders that were; not the sheet of another time."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"--images: there is no {printable(place)}")
        inside = image_files.find(place) if place.is_dir() else [place]
        inside = [path for path in inside if path.absolute() != ours.absolute()]
        if not inside:
            raise UserError(f"--images: there are no pictures in {printable(place)}")
        found += inside
    return list(dict.fromkeys(found))


def _predicted(model: TrainedModel, paths: Sequence[Path]) -> Iterator[tuple[Path, Tensor | DecodeError, Tensor]]:
    """Every path with its picture, or why there is none, and the probabilities ``(C,)``; in the order of ``paths``."""
    read = zip(paths, image_files.read_all(paths, model.side, "reading pictures"), strict=True)
    none = torch.empty(0)
    while part := list(islice(read, BATCH)):
        whole = [picture for _, picture in part if isinstance(picture, Tensor)]
        shares = iter(_probabilities(model, whole))
        for path, picture in part:
            yield path, picture, none if isinstance(picture, DecodeError) else next(shares)


def _probabilities(model: TrainedModel, whole: list[Tensor]) -> list[Tensor]:
    if not whole:
        return []
    with torch.inference_mode():
        return list(model(torch.stack(whole).to(next(model.parameters()).device)).cpu())


def _write(guesses: Sequence[tuple[Path, Tensor]], classes: Sequence[str], path: Path) -> None:
    """A row a picture: file, class, probability, and the next best classes with theirs, five in all."""
    count = min(TOP, len(classes))
    more = [f"{name}_{rank}" for rank in range(2, count + 1) for name in ("class", "probability")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "probability", *more])
    for file, shares in guesses:
        best = shares.topk(count)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        writer.writerow(
            [printable(file), *(cell for place, share in pairs for cell in (classes[place], f"{share:.4f}"))]
        )
    directory.write_text(path, text.getvalue())


def _print(guesses: Sequence[tuple[Path, Tensor]], classes: Sequence[str]) -> None:
    said = [(_said(shares, classes), printable(path)) for path, shares in guesses[:PRINTED]]
    width = max(len(words) for words, _ in said)
    for words, path in said:
        print(f"{words:<{width}}  {path}")
    if len(guesses) > PRINTED:
        print(f"… and {len(guesses) - PRINTED} more")


def _said(shares: Tensor, classes: Sequence[str]) -> str:
    return f"{classes[int(shares.argmax())]} {shares.max():.0%}"


def _short(name: str, most: int = 22) -> str:
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 9]}…{name[-8:]}"
