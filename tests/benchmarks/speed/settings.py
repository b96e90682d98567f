"""Settings of all parts: the number of rounds, the device, and whether it is only a quick check."""

from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).parents[3] / "configs"


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: How often everything is measured, in turn.
        seeds: Number of runs of what is trained for its accuracy, with seeds from 0 on.
        device: ``cpu`` or ``cuda``.
        quick: Few steps of everything, to see that it works; the numbers then mean nothing.
        whole: Whether the part ``speedrun`` also trains.
    """

    rounds: int = 5
    seeds: int = 3
    device: str = "cpu"
    quick: bool = False
    whole: bool = False

    def size(self, usual: int, quick: int) -> int:
        """``quick`` in a quick check, else ``usual``."""
        return quick if self.quick else usual

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU does the work."""
        return self.device == "cuda"

    @property
    def accelerator(self) -> list[str]:
        """The device as an option of ``fit``, which would use a GPU by default if there is one."""
        return ["--trainer.accelerator", "gpu" if self.on_gpu else "cpu"]

    @property
    def few(self) -> list[str]:
        """Options that shorten a whole ``fit`` in a quick check."""
        limits = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "max_steps")
        return [word for name in limits for word in (f"--trainer.{name}", "2")] if self.quick else []


def config(*names: str) -> list[str]:
    """The options that name these files of ``configs/``, whatever the current folder is."""
    return [word for name in names for word in ("--config", str(CONFIGS / f"{name}.yaml"))]
