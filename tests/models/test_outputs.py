"""Networks that return more, or less, than logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from regularization import Digits, ImageClassifier, load
from regularization.cli.main import main
from regularization.errors import UserError
from regularization.inference.trained_model import TrainedModel
from regularization.models.outputs import split_output
from tests.conftest import BASE, rows_of
from tests.models.test_classifier import trainer

Refused = Callable[..., str]


class Outputs(NamedTuple):
    """Like torchvision's GoogLeNetOutputs."""

    logits: Tensor
    aux_logits2: Tensor | None
    aux_logits1: Tensor | None


class TwoHeads(nn.Module):
    """A network with two auxiliary classifiers in training mode."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(192, num_classes) for _ in range(3))

    def forward(self, images: Tensor) -> Any:
        logits = [head(images.flatten(1)) for head in self.heads]
        return Outputs(*logits) if self.training else logits[0]


def test_auxiliary_logits_add_their_loss_in_training() -> None:
    torch.manual_seed(0)
    network = TwoHeads()
    expected = TwoHeads()
    expected.load_state_dict(network.state_dict())
    data = Digits(batch_size=50, seed=1)
    classifier = ImageClassifier(network, lambda w: torch.optim.SGD(w, lr=0.1), label_smoothing=0.1)
    fitted = trainer(1, limit_train_batches=1, limit_val_batches=1)
    fitted.fit(classifier, data)

    batch = next(iter(data.train_dataloader()))
    outputs = expected(data.preprocess(batch.images))
    main_loss = F.cross_entropy(outputs.logits, batch.labels, label_smoothing=0.1)
    others = [F.cross_entropy(other, batch.labels) for other in outputs[1:]]
    (main_loss + 0.3 * others[0] + 0.3 * others[1]).backward()  # type: ignore[no-untyped-call]
    for w, reference in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(w, reference - 0.1 * (reference.grad if reference.grad is not None else 0))
    # The loss that is logged is the criterion of the logits alone, as in validation.
    assert fitted.callback_metrics["train_loss"].item() == pytest.approx(main_loss.item(), rel=1e-5)


class Returns(nn.Module):
    """Returns the result of ``make`` for ten logits."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 10)
        self.make = make

    def forward(self, images: Tensor) -> Any:
        return self.make(self.linear(images.flatten(1)))


def test_a_tuple_of_logits_and_features_is_logits() -> None:
    features = torch.randn(4, 32)
    logits = torch.randn(4, 10)
    assert split_output((logits, features, None, "text"), 10) == (logits, [])
    assert split_output(logits) == (logits, [])
    model = TrainedModel(Returns(lambda x: (x, x.flatten())), nn.Flatten(), "0123456789")  # type: ignore[arg-type]
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"out": torch.zeros(4, 10)}, "must return logits of shape (images, classes), not a dict"),
        ([torch.zeros(4, 10)], "not a list"),
        ((), "not a tuple"),
        ((None, torch.zeros(4, 10)), "not a NoneType"),
        (torch.zeros(4, 10, 8, 8), "not a tensor of shape (4, 10, 8, 8)"),
        (torch.zeros(4, 5), "returns 5 logits per image, but there are 10 classes"),
        (torch.zeros(4, 1000), "returns 1000 logits per image, but there are 10 classes"),
    ],
)
def test_what_is_not_logits_is_refused(output: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        split_output(output, 10)
    assert message in str(error.value)


FILE = """
from torch import nn

class Few(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(192, 5))

class Map(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(192, num_classes))

    def forward(self, images):
        return {"logits": super().forward(images)}

class Frozen(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(192, num_classes))
        self.requires_grad_(False)

class Nothing(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.AdaptiveAvgPool3d((num_classes, 1, 1)), nn.Flatten())
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Few", "model.network returns 5 logits per image, but there are 10 classes"),
        ("Map", "model.network must return logits of shape (images, classes), not a dict"),
        ("Frozen", "there is nothing to train: the network has no parameters, or all of them are frozen"),
        ("Nothing", "there is nothing to train"),
    ],
)
def test_a_network_that_cannot_be_trained(
    name: str, message: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    module = f"networks_{name.lower()}"
    Path(f"{module}.py").write_text(FILE)
    # Fewer than 16 images: the invariance is not measured, and the first step finds the mistake.
    for more in ([], ["--data.val_size", "1420"]):
        assert message in refused("fit", "--config", str(BASE), "--model.network", f"{module}.{name}", *more)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("googlenet", "32"), ("inception_v3", "299")])
def test_networks_of_torchvision_with_auxiliary_classifiers(name: str, size: str) -> None:
    network = ["--model.network", f"torchvision.models.{name}", "--model.network.init_weights", "false"]
    data = ["--data.image_size", size, "--data.batch_size", "4", "--data.eval_batch_size", "4"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    main(["fit", "--config", str(BASE), "--trainer.accelerator", "cpu", *network, *data, *short])
    run = Path("runs/quickstart/version_0")
    assert rows_of(run)[0]["train_loss"] > 0
    assert load(run)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape == (1, 10)
