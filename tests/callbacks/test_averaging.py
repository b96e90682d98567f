"""Lookahead against its recursion in NumPy, SWA and LAWA against means; EMA is tested with its overlay."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from regularization import LAWA, SWA, Digits, Lookahead, SmallResNet, UserError
from regularization.cli.main import main
from regularization.models.classifier import ImageClassifier
from tests.training.test_command import QUICK, Refused

SHORT = (*QUICK, "--trainer.limit_train_batches", "6", "--trainer.max_epochs", "2", "--callbacks.slow", "Lookahead")
EVERY_FOUR = ("--callbacks.slow.decay", "0.8", "--callbacks.slow.every", "4")


def averaged_values(module: LightningModule) -> NDArray[np.float64]:
    """All weights, and the statistics of batch norm."""
    assert isinstance(module, ImageClassifier)
    state = module.network.state_dict()
    return np.concatenate([state[name].double().flatten().numpy() for name in state if "num_batches" not in name])


def record_hooks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """The step, and the weights before and after each hook of Lookahead; the first entry is the start of training."""
    records = []

    def recorded(hook: Callable[..., None]) -> Callable[..., None]:
        def wrapper(callback: Lookahead, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
            before = averaged_values(module)
            hook(callback, trainer, module, *rest)
            records.append((trainer.global_step, before, averaged_values(module)))

        return wrapper

    for name in ("on_train_start", "on_train_batch_end"):
        monkeypatch.setattr(Lookahead, name, recorded(getattr(Lookahead, name)))
    return records


@pytest.mark.parametrize("accumulated", [1, 2])
def test_lookahead_is_its_recursion(accumulated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    records = record_hooks(monkeypatch)
    main(["fit", *SHORT, *EVERY_FOUR, f"--trainer.accumulate_grad_batches={accumulated}"])
    steps = 12 // accumulated
    assert [step for step, *_ in records] == [batch // accumulated for batch in range(13)]
    slow = records[0][2]
    distances = []
    for (previous_step, *_), (step, before, after) in itertools.pairwise(records):
        if step == previous_step or (step % 4 and step != steps):
            np.testing.assert_array_equal(after, before)
            continue
        beta = 0.8**4 * (step / steps) ** 3
        distances.append(np.abs(before - slow).max())
        slow = np.where(before == 0, 0, beta * slow + (1 - beta) * before)
        np.testing.assert_allclose(after, slow, rtol=1e-6, atol=1e-7)
        slow = after
    assert len(distances) == (3 if accumulated == 1 else 2)
    assert min(distances) > 1e-3


def test_lookahead_refuses_impossible_options(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ({"decay": 1.0}, {"decay": -0.1}, {"every": 0}):
        with pytest.raises(UserError, match="Lookahead: "):
            Lookahead(**options)
    with pytest.raises(SystemExit):
        main(["fit", *SHORT, "--trainer.max_epochs=-1", "--trainer.max_steps=-1", "--model.lr_scheduler=null"])
    assert "Lookahead needs the length of the training" in capsys.readouterr().err


def test_the_last_checkpoint_of_lookahead_is_its_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """This also holds if the last step is not a multiple of ``every``."""
    records = record_hooks(monkeypatch)
    main(["fit", *SHORT])
    state = torch.load("runs/quickstart/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = [state[name].double().flatten().numpy() for name in state if "num_batches" not in name]
    last_step, before, after = records[-1]
    np.testing.assert_array_equal(np.concatenate(weights), after)
    assert last_step == 12
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("options", "averaged"),
    [
        (["--callbacks.mean=SWA", "--callbacks.mean.start=0.5"], range(10, 19)),
        (["--callbacks.mean=LAWA", "--callbacks.mean.epochs=2"], [12, 18]),
    ],
    ids=["SWA", "LAWA"],
)
@pytest.mark.parametrize("validated", [True, False])
def test_swa_and_lawa_are_means(
    options: list[str], averaged: Sequence[int], validated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are means over steps, the statistics of batch norm those of the clean training images."""
    weights: dict[int, dict[str, Tensor]] = {}

    def record(self: ImageClassifier, *_: Any) -> None:
        parameters = {name: w.detach().clone() for name, w in self.named_parameters()}
        weights[self.trainer.global_step] = parameters

    monkeypatch.setattr(ImageClassifier, "on_train_batch_end", record)
    short = [*QUICK, "--trainer.limit_train_batches=6", "--trainer.max_epochs=3", "--model.network.dropout=0.5"]
    main(["fit", *short, *options, *([] if validated else ["--data.val_size=null"])])
    saved = torch.load("runs/quickstart/version_0/checkpoints/last.ckpt", weights_only=True)
    state = {name.removeprefix("network."): tensor for name, tensor in saved["state_dict"].items()}
    for name in weights[18]:
        mean = torch.stack([weights[step][name] for step in averaged]).mean(dim=0)
        torch.testing.assert_close(saved["state_dict"][name], mean)
        assert torch.equal(saved["current_model_state"][name], weights[18][name])
    network = SmallResNet(width=4, dropout=0.5)
    network.load_state_dict(state)
    data = Digits(batch_size=64, val_size=0.2 if validated else None)
    data.setup("fit")
    # The stem has no norm layer of its own: its output is the input of the first norm layer.
    stem = [network.stem(data.preprocess(batch.images)) for batch in data.clean_dataloader()]
    sizes = [len(output) for output in stem]
    assert data.train_set is not None
    assert sum(sizes) == (max(256, len(data.val_set[1])) if data.val_set else len(data.train_set[1]))
    assert len(set(sizes)) == 2, "the last batch is smaller"
    means = [output.mean(dim=(0, 2, 3)).detach().numpy() for output in stem]
    variances = [output.transpose(0, 1).flatten(1).var(dim=1).detach().numpy() for output in stem]
    mean, variance = (torch.from_numpy(np.average(it, axis=0, weights=sizes)).float() for it in (means, variances))
    torch.testing.assert_close(state["stages.0.activate.0.running_mean"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state["stages.0.activate.0.running_var"], variance, rtol=1e-4, atol=1e-5)


def test_a_last_batch_of_one_image_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With features of 1×1, batch norm cannot compute the variance of one image."""
    sizes: list[int] = []
    loader = Digits.clean_dataloader

    def with_one_more(self: Digits) -> Any:
        *batches, last = loader(self)
        batches += [last, last._replace(images=last.images[:1])]
        sizes.extend(len(batch.images) for batch in batches)
        return batches

    monkeypatch.setattr(Digits, "clean_dataloader", with_one_more)
    short = [*QUICK, "--trainer.limit_train_batches=2", "--trainer.max_epochs=1", "--data.image_size=4"]
    main(["fit", *short, "--callbacks.mean=SWA", "--callbacks.mean.start=0", "--trainer.limit_val_batches=0"])
    assert 1 in sizes


@pytest.mark.parametrize("average", ["EMA", "SWA", "LAWA"])
def test_an_average_in_16_bits_is_refused(average: str, refused: Refused) -> None:
    message = refused("fit", *QUICK, "--trainer.precision=bf16-true", f"--callbacks.mean={average}")
    assert f"{average} needs weights in 32 bits: use --trainer.precision bf16-mixed" in message


def test_swa_and_lawa_refuse_impossible_options() -> None:
    with pytest.raises(UserError, match="SWA: start must be at least 0 and below 1, not 1"):
        SWA(1.0)
    with pytest.raises(UserError, match="LAWA: epochs must be at least 2, not 1"):
        LAWA(1)
