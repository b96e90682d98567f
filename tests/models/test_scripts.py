"""A trained classifier and the data modules in a script with Lightning's Trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.tuner.tuning import Tuner
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from regularization import Digits, ImageClassifier, SmallResNet, load
from regularization.cli.main import main
from regularization.errors import UserError
from tests.models.test_classifier import trainer
from tests.training.test_command import QUICK, RUN

LAST = RUN / "checkpoints" / "last.ckpt"
SHORT = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "1")


@pytest.fixture
def digits() -> TensorDataset:
    """The test digits, preprocessed, with their labels."""
    data = Digits()
    data.setup("test")
    images, labels, *_ = next(
        iter(DataLoader(data.test_dataloader().dataset, batch_size=None, sampler=[torch.arange(360)]))
    )
    return TensorDataset(data.preprocess(images), labels)


def test_a_checkpoint_is_loaded_without_further_arguments(digits: TensorDataset) -> None:
    penalties = ["--model.penalties.l1", "L1", "--model.penalties.l1.strength", "1e-4"]
    main(["fit", *QUICK, *SHORT, *penalties, "--model.label_smoothing", "0.1"])
    state = torch.get_rng_state()
    classifier = ImageClassifier.load_from_checkpoint(LAST)
    assert torch.equal(torch.get_rng_state(), state)
    saved = torch.load(LAST, weights_only=True)
    for name, w in classifier.state_dict().items():
        assert torch.equal(w, saved["state_dict"][name])
    assert list(classifier.regularizer.penalties) == ["l1"]
    assert classifier.lr == 0.1
    assert classifier.optimization.hyperparameters["optimizer"] == "SGD"
    # The probabilities for the test images of our data module equal those of ``load``.
    probabilities = torch.cat(trainer(1).predict(classifier, Digits()))  # type: ignore[arg-type]
    images, _ = digits.tensors
    pixels = (images * 0.5 + 0.5).mul(255).round().byte()
    torch.testing.assert_close(probabilities, load(RUN)(pixels).detach())
    # Another network takes the place of the one in the config.
    network = SmallResNet(width=4)
    assert ImageClassifier.load_from_checkpoint(str(LAST), network=network).network is network
    # A checkpoint that is written from a script can be loaded in the same way.
    fitted = trainer(1, limit_train_batches=1, limit_val_batches=0)
    fitted.fit(classifier, Digits())
    fitted.save_checkpoint("again.ckpt")
    assert isinstance(ImageClassifier.load_from_checkpoint("again.ckpt").network, SmallResNet)


def test_a_checkpoint_that_is_not_trusted_or_does_not_say_its_network() -> None:
    main(["fit", *QUICK, *SHORT])
    saved = torch.load(LAST, weights_only=True)
    torch.save({**saved, "config": {}}, "plain.ckpt")
    with pytest.raises(UserError, match="does not say its network"):
        ImageClassifier.load_from_checkpoint("plain.ckpt")
    network = SmallResNet(width=4)
    assert ImageClassifier.load_from_checkpoint("plain.ckpt", network=network).network is network
    Path("elsewhere.py").write_text("open('imported', 'w')")
    saved["config"]["model"]["network"] = {"class_path": "elsewhere.Net"}
    torch.save(saved, "evil.ckpt")
    with pytest.raises(UserError, match="elsewhere"):
        ImageClassifier.load_from_checkpoint("evil.ckpt")
    assert not Path("imported").exists()


@pytest.mark.parametrize("collate", [tuple, list, lambda batch: [*batch, "more"]])
def test_an_ordinary_data_loader(digits: TensorDataset, collate: Callable[[Any], Any]) -> None:
    def loader(*tensors: torch.Tensor) -> DataLoader[Any]:
        dataset = TensorDataset(*tensors)
        return DataLoader(
            dataset, batch_size=60, collate_fn=lambda rows: collate(map(torch.stack, zip(*rows, strict=True)))
        )

    images, labels = digits.tensors
    classifier = ImageClassifier(
        SmallResNet(width=16), lambda w: torch.optim.SGD(w, lr=0.1), mixing=v2.MixUp(num_classes=10)
    )
    fitted = trainer(3)
    fitted.fit(classifier, loader(images, labels), loader(images, labels))
    logged = fitted.callback_metrics
    (tested,) = fitted.test(classifier, loader(images, labels), verbose=False)
    classifier.eval()
    with torch.no_grad():
        logits = classifier(images)
    assert tested["test_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert tested["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert logged["val_accuracy"] == pytest.approx(tested["test_accuracy"])
    # The images may come with labels or without.
    for data in (loader(images, labels), loader(images), DataLoader(images, batch_size=60)):  # type: ignore[arg-type]
        probabilities = torch.cat(fitted.predict(classifier, data))  # type: ignore[arg-type]
        torch.testing.assert_close(probabilities, logits.softmax(1))


def test_the_tuner_finds_a_learning_rate_and_a_batch_size() -> None:
    torch.manual_seed(0)
    classifier = ImageClassifier(SmallResNet(width=4), lambda w: torch.optim.SGD(w, lr=7.0, momentum=0.9))
    fitted = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    finder = Tuner(fitted).lr_find(classifier, datamodule=Digits(), num_training=30, min_lr=1e-4)
    assert finder is not None
    assert classifier.lr == finder.suggestion() != 7.0
    fitted.fit(classifier, Digits())
    assert [group["lr"] for group in fitted.optimizers[0].param_groups] == [classifier.lr]
    data = Digits(batch_size=16)
    size = Tuner(trainer(1)).scale_batch_size(classifier, datamodule=data, steps_per_trial=1, max_trials=2)
    assert data.batch_size == size != 16
