from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback

from regularization.callbacks.hooks import EACH_STEP, without_idle_hooks
from regularization.callbacks.non_finite_guard import NonFiniteGuard


class Counter(Callback):
    """Has one hook of its own."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.batches += 1


def test_hooks_of_its_own_stay_the_others_are_passed_over() -> None:
    counter = without_idle_hooks(Counter())
    assert [name for name in EACH_STEP if callable(getattr(counter, name))] == ["on_train_batch_end"]
    assert callable(Counter().on_before_backward)
    # What a class inherits from another than Callback is its own, too.
    inherited = without_idle_hooks(type("Later", (NonFiniteGuard,), {})())
    assert {name for name in EACH_STEP if callable(getattr(inherited, name))} == {
        "on_before_backward",
        "on_before_optimizer_step",
    }


def test_hooks_given_to_the_callback_itself_stay() -> None:
    seen: list[int] = []
    given = without_idle_hooks(LambdaCallback(on_train_batch_end=lambda *_: seen.append(1)))
    given.on_train_batch_end(None, None, None, None, 0)  # type: ignore[arg-type]
    assert seen == [1]
