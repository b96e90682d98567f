import io
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from regularization import L1, L2, SGDW, Digits, GroupLasso, ImageClassifier, MaxNorm, Penalty, SmallResNet
from regularization.callbacks.history import MAX_WIDTH
from regularization.callbacks.parameter_report import ParameterReport, ReportRow, table
from regularization.cli.main import main
from tests.models.test_classifier import trainer
from tests.training.test_command import QUICK

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)


def reported(
    capsys: pytest.CaptureFixture[str], optimizer: Any = SGD, network: nn.Module | None = None, **options: Any
) -> tuple[ParameterReport, str, list[str]]:
    report = ParameterReport()
    fitted = trainer(2, limit_train_batches=5, limit_val_batches=1, callbacks=[report])
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted.fit(ImageClassifier(network or SmallResNet(width=4), optimizer, **options), Digits())
    messages = [str(warning.message) for warning in caught if "parameter_report.py" in warning.filename]
    return report, capsys.readouterr().out, messages


def test_each_element_is_listed_once_with_its_regularization(capsys: pytest.CaptureFixture[str]) -> None:
    penalties: dict[str, Penalty | None] = {"l1": L1(1e-3, ["head.weight"]), "cap": MaxNorm(2.0)}
    report, output, _ = reported(capsys, decay="weights", penalties=penalties)
    network = SmallResNet(width=4)
    assert sorted(name for row in report.rows for name in row.names) == sorted(dict(network.named_parameters()))
    assert sum(row.elements for row in report.rows) == sum(w.numel() for w in network.parameters())
    by_kind = {(row.kind, *row.penalties): row for row in report.rows}
    head, kernels = by_kind["weights", "l1", "cap"], by_kind["weights", "cap"]
    assert head.names == ["head.weight"]
    assert head.invariant == {}
    branches = sum(w.numel() for name, w in network.named_parameters() if name.endswith("branch.0.weight"))
    assert kernels.invariant is not None
    assert kernels.invariant == {"filters": pytest.approx(branches / kernels.elements)}
    assert f"{branches / kernels.elements:.0%} filters" in output
    assert by_kind["scales",].decay == by_kind["biases",].decay == 0
    # 5 steps per epoch: τ = (1 − 0.9)/(0.1 · 0.01 · 5) epochs.
    assert head.tau == pytest.approx(0.1 / (0.1 * 0.01 * 5))
    assert by_kind["scales",].tau == float("inf")
    assert "l1 0.001 (proximal)" in " ".join(output.split())
    assert "cap ≤ 2" in output
    assert " 20 " in output


def test_the_table_fits_a_terminal_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a_long_name_of_a_penalty_that_somebody_has_chosen_for_it"
    _, output, _ = reported(capsys, penalties={"l1": L1(1e-3), name: MaxNorm(2.0)})
    assert max(map(len, output.splitlines())) <= 80
    classifier = ImageClassifier(SmallResNet(width=4), penalties={name: MaxNorm(2.0), "cap": MaxNorm(123456.0)})
    invariant = {"filters": 0.33, "groups": 0.2, "layers": 0.1}
    row = ReportRow("weights", ["w"] * 1000, 1_307_296_123, invariant, 1.2345678e-5, 123456.7, [name, "cap"])
    console = Console(width=MAX_WIDTH, file=(text := io.StringIO()), highlight=False)
    console.print(table([row], classifier))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("kind", "tensors", "elements", "scale-", "weight", "timescale", "invariant", "decay λ", "penalties"):
        assert word in text.getvalue()
    # Nothing is cut off.
    assert "…" not in text.getvalue()
    for value in ("1,307,296,123", "33%", "20% groups", "10% layers", "1.23e-05", "1.23e+05", "123456", "1000"):
        assert value in text.getvalue()


@pytest.mark.parametrize(
    ("optimizer", "tau"),
    [
        (partial(SGDW, lr=0.1, momentum=0.9, weight_decay=0.1), 1 / (0.1 * 0.1 * 5)),
        (partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1), 1 / (0.1 * 0.1 * 5)),
        (partial(torch.optim.Adam, lr=0.1, weight_decay=0.1), None),
    ],
)
def test_tau_of_other_optimizers(capsys: pytest.CaptureFixture[str], optimizer: Any, tau: float | None) -> None:
    report, output, _ = reported(capsys, optimizer, penalties={"l1": L1(1e-3)})
    assert report.rows[0].tau == (tau and pytest.approx(tau))
    assert ("decoupled" in output) == (optimizer.func is not SGDW)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"decay": "weights", "penalties": {"l2": L2(0.1)}}, "their λ add up"),
        (
            {"penalties": {"g": GroupLasso(0.1, ["*branch.0.weight"])}},
            "most of its filters are scale-invariant, so shrinking them",
        ),
    ],
)
def test_each_misuse_is_warned_about_once(
    capsys: pytest.CaptureFixture[str], options: dict[str, Any], warning: str
) -> None:
    _, _, messages = reported(capsys, **options)
    assert sum(warning in message for message in messages) == 1


def test_invariance_is_reported_by_its_level(capsys: pytest.CaptureFixture[str]) -> None:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, bias=False), nn.GroupNorm(2, 8), nn.ReLU()]
    layers += [nn.Conv2d(8, 16, 3, bias=False), nn.GroupNorm(1, 16), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    penalties: dict[str, Penalty | None] = {"g": GroupLasso(0.1)}
    report, output, messages = reported(capsys, network=nn.Sequential(*layers), decay="weights", penalties=penalties)
    weights = next(row for row in report.rows if row.kind == "weights")
    assert weights.elements == 216 + 576 + 1152 + 160
    assert weights.invariant == pytest.approx({"filters": 216 / 2104, "groups": 576 / 2104, "layers": 1152 / 2104})
    assert all(part in output for part in ("10% filters", "27% groups", "55% layers"))
    # In front of group norm, shrinking a single filter changes the network, so a group penalty does give zeros.
    assert not messages


def test_how_to_exclude_biases_is_said_where_they_decay(capsys: pytest.CaptureFixture[str]) -> None:
    for decay, said in (("all", True), ("weights", False)):
        _, output, messages = reported(capsys, decay=decay)
        assert ("--model.decay weights excludes biases" in output) == said
        assert not messages


def test_a_short_run_is_not_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    report, _, messages = reported(capsys, decay="weights")
    assert report.rows[0].tau == pytest.approx(20)  # epochs, of which there are 2
    assert not messages


def test_a_lambda_that_was_chosen_for_another_optimizer_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1")
    main(["fit", *QUICK, *short, "--model.optimizer", "AdamW"])
    message = (
        "weight_decay 0.0005 was chosen for SGD in quickstart.yaml; AdamW applies it differently, so set it explicitly"
    )
    assert message in capsys.readouterr().err
    main(["fit", *QUICK, *short, "--model.optimizer", "AdamW", "--model.optimizer.weight_decay", "0.01"])
    assert "was chosen for" not in capsys.readouterr().err
    main(["fit", *QUICK, *short])
    assert "was chosen for" not in capsys.readouterr().err
