"""Checks the metrics.csv of a quickstart run: no epoch is missing, the loss fell, and the accuracy is high enough."""

import csv
import sys


def check(path: str) -> None:
    """Raises AssertionError if the run does not meet what configs/quickstart.yaml promises."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(30)), "an epoch is missing"
    assert float(rows[-1]["train_loss"]) < 0.25 * float(rows[0]["train_loss"]), "it did not learn"
    accuracy = float(rows[-1]["val_accuracy"])
    assert accuracy >= 0.91, f"validation accuracy {accuracy} is below 0.91"
    print(f"quickstart: validation accuracy {accuracy:.4f}")


if __name__ == "__main__":
    check(sys.argv[1])
