"""The table of runs: every trial of a study in one row, with which validation images it classified correctly.

``python -m tests.benchmarks.runs STUDY_FOLDER … --to docs/measurements/runs`` writes ``STUDY.csv.gz`` for each study.
Analyses and search strategies can then be judged without training anything. ``pandas.read_csv`` reads the file.
With ``--add``, the runs of an existing file stay, unless a study has them as well.

``correct`` holds a bit for each validation image in the order of their index in the training set, packed by
``numpy.packbits`` and encoded in base64; ``images`` is their number. ``unpack`` gives them back. Which images they are
follows from ``val_size`` and ``split_seed`` by ``regularization.data.readers.stratified_split``. The mean of the bits
differs from ``val_accuracy`` by up to 0.05 points, after a collapse by up to 0.2: logits are kept in half precision, so
two of them may be equal.

On a CPU, ``seconds`` times ``threads`` are core-seconds; ``threads`` is empty if the run did not record it.
"""

import argparse
import base64
import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regularization.runs import directory
from regularization.study import found_runs
from regularization.study.results import Result
from regularization.training.configs import read_config

METRICS = ("val_accuracy", "val_loss", "val_calibration_error", "clean_accuracy", "clean_loss", "train_loss")


def row_of(result: Result) -> dict[str, Any]:
    """The row of one trial; what was not measured is left empty."""
    config = read_config(result.folder / directory.CONFIG)
    optimizer = config["model"]["optimizer"]["init_args"]
    data = config["data"]["init_args"]
    steps = result.steps
    return {
        "arm": result.arm,
        "options": json.dumps(result.values),
        "stage": result.stage,
        "seed": result.seed,
        "weight_decay": result.weight_decay,
        "lr": optimizer["lr"],
        "momentum": optimizer.get("momentum"),
        "tau": result.timescale,
        "epochs": len(result.rows),
        "steps": steps,
        "precision": config["trainer"].get("precision"),
        "val_size": data.get("val_size"),
        "split_seed": data.get("split_seed", 0),
        **{name: result.row.get(name) for name in METRICS},
        "weight_norm": result.weight_norm,
        "effective_lr": result.row.get("effective_lr"),
        "test_accuracy": result.test_accuracy,
        "seconds": round(result.seconds, 2),
        "threads": directory.read_result(result.folder).get("threads"),
        **packed(result),
    }


def packed(result: Result) -> dict[str, Any]:
    """``images`` and ``correct``, empty without logits."""
    if (kept := result.logits()) is None:
        return {"images": None, "correct": None}
    logits, labels, index = kept
    correct = (logits.argmax(axis=1) == labels)[np.argsort(index)]
    return {"images": len(correct), "correct": base64.b64encode(np.packbits(correct).tobytes()).decode()}


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that ``write`` wrote."""
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def unpack(correct: str, images: int) -> NDArray[np.bool_]:
    """Whether each validation image was classified correctly, ``(images,)``."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(correct), dtype=np.uint8))
    return bits[:images].astype(bool)


def merged(stored: Sequence[dict[str, str]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new rows, and the stored ones with another stage, arm or seed; columns that these lack are empty."""
    keys = {_key(row) for row in new}
    return [*new, *({name: row.get(name, "") for name in new[0]} for row in stored if _key(row) not in keys)]


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["stage"], row["arm"], int(row["seed"])


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the rows; the same rows give the same bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "studies", nargs="+", type=Path, metavar="STUDY_FOLDER", help="such as runs/quickstart/version_0"
    )
    parser.add_argument("--to", type=Path, default=Path("docs/measurements/runs"), metavar="FOLDER")
    parser.add_argument("--add", action="store_true", help="keep the other runs of an existing table")
    args = parser.parse_args()
    for study in args.studies:
        found = [row_of(result) for result in found_runs.find([study]).results]
        path = args.to / f"{study.resolve().parent.name}.csv.gz"
        if args.add and path.is_file():
            found = merged(rows(path), found)
        write(sorted(found, key=_key), path)
        print(f"{path}: {len(found)} runs, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
