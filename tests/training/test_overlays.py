"""Every overlay in configs/with trains on the digits and has its intended effect."""

import itertools
import math
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.transforms.v2
from sklearn.datasets import load_digits
from torch import Tensor

from regularization import (
    ConfidencePenalty,
    FunctionPenalty,
    GradientPenalty,
    ImageClassifier,
    JacobianPenalty,
    LogitPenalty,
    RDrop,
    SmallResNet,
    ZLoss,
)
from regularization.cli.main import main
from regularization.data.augmentation.augment import Augment, Draws
from regularization.data.sampling import Batch
from regularization.optim.penalties import filters
from regularization.study.analysis.regularizers import others_in
from regularization.training.configs import read_config
from tests.conftest import BASE, CONFIGS, Rows, rows_of

WITH = sorted((CONFIGS / "with").glob("*.yaml"))
Weights = dict[str, Tensor]
DIGITS = (
    "fit",
    "--config",
    str(BASE),
    "--trainer.max_epochs",
    "2",
    "--trainer.accelerator",
    "cpu",
)


def run(name: str, *more: str) -> tuple[Any, Rows]:
    """The last checkpoint and the rows of two epochs with the overlay ``name``."""
    main([*DIGITS, "--config", str(CONFIGS / "with" / f"{name}.yaml"), *more])
    folder = Path(f"runs/quickstart+{name}/version_0")
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True), rows_of(folder)


def assert_same_bits_after_a_resume(name: str, *options: str, stopped_at: int = 3) -> None:
    """Repeats the run ``name`` of two epochs, stops it by Ctrl-C in the given batch, counted from 0, and resumes it."""
    train, batches = ImageClassifier.training_step, itertools.count()

    def interrupted(self: ImageClassifier, *args: Any) -> Any:
        if next(batches) == stopped_at:
            signal.raise_signal(signal.SIGINT)
        return train(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageClassifier, "training_step", interrupted)
        with pytest.raises(SystemExit):
            main([*DIGITS, *options])
    folders = [Path(f"runs/quickstart+{name}/version_{number}/checkpoints/last.ckpt") for number in range(2)]
    main(["fit", "--ckpt_path", str(folders[1])])
    whole, continued = (torch.load(path, weights_only=True) for path in folders)
    for key in ("state_dict", "optimizer_states", "current_model_state"):
        torch.testing.assert_close(continued.get(key), whole.get(key), rtol=0, atol=0)


def network(checkpoint: Any, name: str = "state_dict") -> Weights:
    weights = {key.removeprefix("network."): w for key, w in checkpoint[name].items() if key.startswith("network.")}
    return {key: weights[key] for key, _ in SmallResNet(width=16).named_parameters()}


def matrices(weights: Weights) -> list[Tensor]:
    return [w for w in weights.values() if w.ndim > 1]


def scales(weights: Weights) -> Tensor:
    return torch.cat([w for name, w in weights.items() if w.ndim == 1 and name.endswith("weight")])


def plain() -> Weights:
    main(list(DIGITS))
    return network(torch.load("runs/quickstart/version_0/checkpoints/last.ckpt", weights_only=True))


def square(weights: Weights) -> float:
    return sum(w.square().sum().item() for w in matrices(weights))


@pytest.mark.parametrize("more", [[], ["--callbacks.slow", "Lookahead"]])
def test_l1(more: list[str]) -> None:
    checkpoint, rows = run("l1", "--model.penalties.l1.strength", "1e-3", *more)
    share = torch.cat([(w == 0).flatten() for w in matrices(network(checkpoint))]).float().mean()
    assert 0.1 < share < 0.99
    total = sum(w.abs().sum().item() for w in matrices(network(checkpoint)))
    assert rows[-1]["penalty/l1"] == pytest.approx(1e-3 * total, rel=1e-4)


def test_l2_is_the_weight_decay_it_replaces(two_threads: None) -> None:
    penalized, rows = run("l2")
    for w, expected in zip(network(penalized).values(), plain().values(), strict=True):
        torch.testing.assert_close(w, expected, rtol=1e-3, atol=1e-4)
    assert rows[-1]["penalty/l2"] > 0


def test_elastic_net() -> None:
    checkpoint, _ = run("elastic_net", "--model.penalties.elastic_net.strength", "1e-3")
    assert any((w == 0).any() for w in matrices(network(checkpoint)))


def test_group_lasso_on_a_layer_without_norm_behind_it() -> None:
    # Each of these 10 filters belongs to one class; a large λ sets all of them to zero.
    more = (
        "--model.penalties.group_lasso.strength",
        "1.0",
        "--model.penalties.group_lasso.parameters",
        "[head.weight]",
    )
    checkpoint, _ = run("group_lasso", *more)
    assert (filters(network(checkpoint)["head.weight"]).norm(dim=1) == 0).all()


def test_slimming() -> None:
    checkpoint, _ = run("slimming", "--model.penalties.slimming.strength", "0.06")
    assert 0 < (scales(network(checkpoint)) == 0).float().mean() < 1


def test_orthogonal() -> None:
    def distance(weights: Weights) -> float:
        return math.fsum((torch.linalg.svdvals(filters(w)) - 1).square().sum().item() for w in matrices(weights))

    assert distance(network(run("orthogonal", "--model.penalties.orthogonal.strength", "0.1")[0])) < 0.2 * distance(
        plain()
    )


def test_l2sp() -> None:
    checkpoint, _ = run("l2sp", "--model.penalties.l2sp.strength", "0.3")
    origin = checkpoint["regularizer"]["l2sp"]

    def moved(weights: Weights) -> float:
        return math.fsum((weights[name] - w0).square().sum().item() for name, w0 in origin.items())

    assert 0 < moved(network(checkpoint)) < 0.3 * moved(plain())


def test_l2ema() -> None:
    """The average differs from the weights; a strong pull towards it slows their change."""
    start = ("--model.penalties.start=L2SP", "--model.penalties.start.strength=0")  # only records the initial weights
    checkpoint, rows = run("l2ema", "--model.penalties.l2ema.strength=1", *start)
    origin, average = (checkpoint["regularizer"][name] for name in ("start", "l2ema"))

    def distance(weights: Weights, reference: Weights) -> float:
        return math.fsum((weights[name] - w).square().sum().item() for name, w in reference.items())

    assert rows[-1]["penalty/l2ema"] == pytest.approx(0.5 * distance(network(checkpoint), average), rel=1e-4)
    assert 0 < distance(network(checkpoint), origin) < 0.3 * distance(plain(), origin)


def test_max_norm() -> None:
    checkpoint, _ = run("max_norm", "--model.penalties.max_norm.limit", "0.4")
    norms = torch.cat([filters(w).norm(dim=1) for w in matrices(network(checkpoint))])
    assert norms.max() <= 0.4 * (1 + 1e-6)
    assert (norms > 0.399).any()


def test_sgdw() -> None:
    checkpoint, _ = run("sgdw", "--model.optimizer.weight_decay", "0.5")
    assert checkpoint["settings"]["optimizer"] == "SGDW"
    assert square(network(checkpoint)) < 0.5 * square(plain())


def test_decay_weights() -> None:
    checkpoint, _ = run("decay_weights")
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [5e-4, 0]
    assert [len(group["params"]) for group in groups] == [10, 15]


def test_decay_patterns() -> None:
    groups = run("decay_patterns")[0]["optimizer_states"][0]["param_groups"]
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(5e-4, 15), (0, 10)]


def test_cautious_decay() -> None:
    checkpoint, _ = run("cautious_decay", "--model.optimizer.weight_decay", "0.5")
    cautious, full = (
        square(network(it)) for it in (checkpoint, run("sgdw", "--model.optimizer.weight_decay", "0.5")[0])
    )
    assert 1.1 * full < cautious < 0.9 * square(plain())


def test_corrected_decay() -> None:
    (group,) = run("corrected_decay")[0]["optimizer_states"][0]["param_groups"]
    last_lr = 0.1 * 0.5 * (1 - math.cos(math.pi * (1 - 36 / 37) / 0.8))  # last of 36 steps; the peak is 0.1 within one
    assert group["weight_decay"] == pytest.approx(5e-3 * last_lr / 0.1, rel=0.02)


def test_muon() -> None:
    checkpoint, rows = run("muon", "--model.optimizer.weight_decay", "0.5", "--model.optimizer.lr", "0.02")
    assert checkpoint["settings"]["optimizer"] == "MuonAdamW"
    assert rows[-1]["val_accuracy"] > 0.8
    decay = [0.5 * 0.02 * factor for factor in learning_rates(36)]
    assert rows[-1]["accumulated_decay"] == pytest.approx(math.fsum(decay), rel=1e-6)


def learning_rates(steps: int) -> list[float]:
    """The factors of WarmupDecay with the warm-up of the tests' config."""
    times = [(step + 1) / (steps + 1) for step in range(steps)]
    return [t / 0.2 if t < 0.2 else 0.5 - 0.5 * math.cos(math.pi * (1 - t) / 0.8) for t in times]


def test_timescale() -> None:
    checkpoint, _ = run("timescale")
    # 18 steps an epoch: λ = (1 − 0.9) / (0.1 · 5 · 18); the highest learning rate is 0.1 to within a step.
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == pytest.approx(0.1 / (0.1 * 5 * 18), rel=0.02)


def test_decay_schedule() -> None:
    checkpoint, _ = run("decay_schedule")
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == pytest.approx(5e-4 * (1 - 35 / 36))  # as it was in the last of 36 steps


@pytest.mark.parametrize("overlay", ["dropout", "stochastic_depth", "drop_block"])
def test_two_passes_differ_in_training_only(overlay: str) -> None:
    checkpoint, _ = run(overlay)
    options = checkpoint["config"]["model"]["network"]["init_args"]
    trained = SmallResNet(**options)
    trained.load_state_dict({name.removeprefix("network."): w for name, w in checkpoint["state_dict"].items()})
    images = torch.randn(8, 3, 8, 8)
    trained.eval()
    assert torch.equal(trained(images), trained(images))
    for module in trained.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm2d)
    assert not torch.equal(trained(images), trained(images))


def test_weight_standardization() -> None:
    checkpoint, _ = run("weight_standardization")
    trained = SmallResNet(**checkpoint["config"]["model"]["network"]["init_args"]).eval()
    trained.load_state_dict({name.removeprefix("network."): w for name, w in checkpoint["state_dict"].items()})
    images = torch.randn(8, 3, 8, 8)
    before = trained(images)
    with torch.no_grad():
        for module in trained.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.mul_(3).add_(0.5)  # neither the scale nor the mean of a filter matters
    assert torch.allclose(trained(images), before, atol=1e-4)


@cache
def plain_state() -> Weights:
    main(list(DIGITS))
    state: Weights = torch.load("runs/quickstart/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


def penalized(penalty: FunctionPenalty, state: Weights) -> float:
    """R on 100 images, in evaluation mode."""
    trained = SmallResNet(width=16).eval()
    trained.load_state_dict({name.removeprefix("network."): w for name, w in state.items()})
    digits = load_digits()
    grey = torch.from_numpy(digits.images[:100]).float()[:, None] / 8 - 1
    images, labels = grey.repeat(1, 3, 1, 1).requires_grad_(), torch.from_numpy(digits.target[:100])
    torch.manual_seed(0)
    return penalty.loss(Batch(images, labels, labels, 1.0), trained(images), trained).item()


@pytest.mark.parametrize(
    ("overlay", "strength", "penalty"),
    [
        ("gradient_penalty", 3.0, GradientPenalty(1.0)),
        ("jacobian", 0.1, JacobianPenalty(1.0, projections=20)),
        ("confidence_penalty", 1.0, ConfidencePenalty(1.0)),
        ("logit_penalty", 0.02, LogitPenalty(1.0)),
        ("z_loss", 0.1, ZLoss(1.0)),
    ],
)
def test_penalties_on_the_function(overlay: str, strength: float, penalty: FunctionPenalty) -> None:
    checkpoint, rows = run(overlay, f"--model.penalties.{overlay}.strength", str(strength))
    value = penalized(penalty, checkpoint["state_dict"])
    assert value < 0.5 * penalized(penalty, plain_state())
    assert rows[-1][f"penalty/{overlay}"] > 0
    assert rows[-1]["val_accuracy"] > 0.8


def test_r_drop() -> None:
    """Two passes of the trained network with dropout differ less than without the penalty."""

    def divergence(overlay: str, *more: str) -> float:
        checkpoint, rows = run(overlay, *more)
        assert rows[-1]["val_accuracy"] > 0.8
        trained = SmallResNet(width=16, dropout=0.2).eval()
        trained.load_state_dict({name.removeprefix("network."): w for name, w in checkpoint["state_dict"].items()})
        trained.dropout.train()
        images = torch.from_numpy(load_digits().images).float()[:, None].repeat(1, 3, 1, 1) / 8 - 1
        labels = torch.zeros(len(images))
        return RDrop(1.0).loss(Batch(images, labels, labels, 1.0), trained(images), trained).item()

    assert divergence("r_drop", "--model.penalties.r_drop.strength=30") < 0.5 * divergence("dropout")


def test_label_smoothing() -> None:
    _, rows = run("label_smoothing")
    # The smoothed loss of a perfect classifier is the entropy of (0.91, 0.01, …); the validation loss is not smoothed.
    entropy = -(0.91 * math.log(0.91) + 9 * 0.01 * math.log(0.01))
    assert rows[-1]["train_loss"] > entropy
    assert rows[-1]["val_loss"] < entropy


@pytest.mark.parametrize("overlay", ["mixup", "cutmix"])
def test_mixing(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    loss = torch.nn.functional.cross_entropy

    def watched(logits: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(targets)
        return loss(logits, targets, *args, **kwargs)

    monkeypatch.setattr("regularization.models.classifier.functional.cross_entropy", watched)
    run(overlay, "--trainer.limit_train_batches", "2")
    mixed = [targets for targets in seen if targets.ndim == 2]
    assert len(mixed) == 4
    for targets in mixed:
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(targets)))
    assert any(((targets > 0).sum(dim=1) == 2).any() for targets in mixed)
    assert next(targets.dtype for targets in seen if targets.ndim == 1) == torch.int64


def test_mixup_and_cutmix_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    for name in ("MixUp", "CutMix"):
        cls = getattr(torchvision.transforms.v2, name)

        def forward(self: Any, *inputs: Any, name: str = name, mix: Any = cls.forward) -> Any:
            drawn.append(name)
            return mix(self, *inputs)

        monkeypatch.setattr(cls, "forward", forward)
    overlays = [word for name in ("mixup", "cutmix") for word in ("--config", str(CONFIGS / "with" / f"{name}.yaml"))]
    main([*DIGITS, *overlays, "--model.mixing.cutmix.alpha", "0.5"])
    # Two epochs of 18 batches: by chance, the probability of fewer than 5 of either is 2e-6.
    assert len(drawn) == 36
    assert min(drawn.count("MixUp"), drawn.count("CutMix")) >= 5
    folder = Path("runs/quickstart+mixup+cutmix/version_0")
    mixing = read_config(folder / "config.yaml")["model"]["mixing"]
    alphas = {name: (part["init_args"]["alpha"], part["init_args"]["num_classes"]) for name, part in mixing.items()}
    assert alphas == {"mixup": (0.2, 10), "cutmix": (0.5, 10)}
    assert others_in(folder, set())[-2:] == ["MixUp", "CutMix"]
    assert others_in(folder, {"model.mixing.mixup.alpha"})[-1] == "CutMix"


def test_cutout() -> None:
    _, rows = run("cutout", "--data.cutout", "4")
    main(list(DIGITS))
    assert rows[-1]["train_loss"] > rows_of(Path("runs/quickstart/version_0"))[-1]["train_loss"]


def test_augmentations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every augmentation changes training images but no validation images; a resumed run has the same bits."""
    names = ["randaugment", "trivialaugment", "autoaugment", "augmix", "random_erasing"]
    more = [f"--config={CONFIGS / 'with' / name}.yaml" for name in names[1:]]
    seen: list[tuple[bool, Tensor]] = []
    applied: list[str] = []
    transfer, augment = ImageClassifier.forward, Augment.forward

    def watched(self: ImageClassifier, images: Tensor) -> Tensor:
        seen.append((self.training, images))
        return transfer(self, images)

    def watched_augment(self: Augment, pixels: Tensor, index: Tensor, epoch: int) -> Tensor:
        for name, part in self.augmentations.items():
            if not torch.equal(part(pixels, Draws(index, 0)), pixels):
                applied.append(name)
        return augment(self, pixels, index, epoch)

    monkeypatch.setattr(ImageClassifier, "forward", watched)
    monkeypatch.setattr(Augment, "forward", watched_augment)
    name, short = "+".join(names), ("--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")
    main([*DIGITS, f"--config={CONFIGS / 'with' / names[0]}.yaml", *more, *short])
    assert set(applied) == set(names)
    altered, kept = ([images for training, images in seen if training == wanted] for wanted in (True, False))
    seen.clear()
    main([*DIGITS, *short])
    plain, validated = ([images for training, images in seen if training == wanted] for wanted in (True, False))
    assert not any(torch.equal(a, b) for a, b in zip(altered, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, validated, strict=True))
    assert_same_bits_after_a_resume(name, f"--config={CONFIGS / 'with' / names[0]}.yaml", *more, *short)


def test_sharpness() -> None:
    """With clipping, penalty, dropout and accumulation: it changes the weights unless ρ = 0, and resumes exactly."""
    more = ["--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1", "--trainer.accumulate_grad_batches=2"]
    more += ["--model.penalties.l2=L2", "--model.penalties.l2.strength=0.1", "--trainer.gradient_clip_val=0.5"]
    more += ["--model.network.dropout=0.3", "--threads=1"]
    sam, asam = (f"--config={CONFIGS / 'with' / name}.yaml" for name in ("sam", "asam"))
    runs = [(sam, "quickstart+sam/version_0"), (asam, "quickstart+asam/version_0")]
    runs += [("--model.sharpness=SAM", "quickstart/version_0"), ("--model.sharpness=null", "quickstart/version_1")]
    weights = []
    for option, folder in runs:
        main([*DIGITS, option, *more, *(["--model.sharpness.rho=0"] if option.endswith("=SAM") else [])])
        weights.append(network(torch.load(f"runs/{folder}/checkpoints/last.ckpt", weights_only=True))["stem.weight"])
    assert torch.equal(weights[2], weights[3])
    for w in weights[:2]:
        assert 1e-4 < (w - weights[3]).norm() / weights[3].norm() < 0.5
    assert_same_bits_after_a_resume("sam", sam, *more, stopped_at=5)


def test_ema() -> None:
    checkpoint, _ = run("ema", "--callbacks.ema.decay", "0.9")
    average, raw = network(checkpoint), network(checkpoint, "current_model_state")
    assert not torch.equal(average["head.weight"], raw["head.weight"])
    torch.testing.assert_close(average["head.weight"], raw["head.weight"], rtol=0.5, atol=0.05)


def test_ema_without_an_average_yet_changes_nothing() -> None:
    checkpoint, rows = run("ema", "--callbacks.ema.start", "1000")
    assert "current_model_state" not in checkpoint
    main(list(DIGITS))
    alone = rows_of(Path("runs/quickstart/version_0"))
    assert [row["val_loss"] for row in rows] == [row["val_loss"] for row in alone]


@pytest.mark.parametrize(("overlay", "option"), [("swa", "start=0.3"), ("lawa", "epochs=2")])
def test_averages(overlay: str, option: str) -> None:
    """The average differs from the weights; a run that is resumed after the average has begun has the same bits."""
    more = (f"--callbacks.{overlay}.{option}", "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1")
    checkpoint, _ = run(overlay, *more, "--threads=1")
    average, raw = network(checkpoint), network(checkpoint, "current_model_state")
    assert not torch.equal(average["head.weight"], raw["head.weight"])
    config = f"--config={CONFIGS / 'with' / overlay}.yaml"
    assert_same_bits_after_a_resume(overlay, config, *more, "--threads=1", stopped_at=6)


def test_lookahead() -> None:
    checkpoint, _ = run("lookahead", "--callbacks.lookahead.every", "12")
    # The last one of 36 steps is one after which training would continue from the average.
    (slow,) = (state["slow"] for name, state in checkpoint["callbacks"].items() if name.startswith("Lookahead"))
    kept = list(network(checkpoint).values())
    assert all(torch.equal(average, w) for average, w in zip(slow[: len(kept)], kept, strict=True))
    assert not torch.equal(network(checkpoint)["head.weight"], plain()["head.weight"])


def test_early_stopping() -> None:
    options = ("--callbacks.early_stopping.patience", "1", "--trainer.max_epochs", "9", "--model.optimizer.lr", "1e-9")
    _, rows = run("early_stopping", *options, "--callbacks.early_stopping.min_delta", "1.0")
    assert len(rows) < 9


def test_overlays_combine() -> None:
    overlays = [
        part
        for name in ("l1", "orthogonal", "ema", "dropout")
        for part in ("--config", str(CONFIGS / "with" / f"{name}.yaml"))
    ]
    main([*DIGITS, *overlays, "--model.penalties.l1.strength", "2e-4", "--trainer.limit_train_batches", "2"])
    folder = Path("runs/quickstart+l1+orthogonal+ema+dropout/version_0")
    config = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["config"]
    assert list(config["model"]["penalties"]) == ["l1", "orthogonal"]
    assert config["model"]["penalties"]["l1"]["init_args"]["strength"] == 2e-4
    assert list(config["callbacks"]) == ["ema"]
    assert set(rows_of(folder)[0]) >= {"penalty/l1", "penalty/orthogonal"}
    # The run continues without one of the overlays, and none is applied twice.
    main(
        [
            "fit",
            "--ckpt_path",
            str(folder / "checkpoints" / "last.ckpt"),
            "--trainer.max_epochs",
            "3",
            "--model.penalties.l1",
            "null",
        ]
    )
    assert math.isnan(rows_of(folder)[2].get("penalty/l1", math.nan))


def test_gpu() -> None:
    """Checks what a CPU can check: the options are parsed, the images are moved, bfloat16 trains similarly."""
    on_cpu = ["--trainer.accelerator", "cpu", "--model.compile", "false", "--trainer.max_epochs", "1"]
    _, rows = run("gpu", *on_cpu)
    main([*DIGITS, *on_cpu])
    plain_rows = rows_of(Path("runs/quickstart/version_0"))
    exact, rounded = (found[0]["train_loss"] for found in (plain_rows, rows))
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


def test_ddp() -> None:
    on_cpu = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    try:
        # One process, as there are no GPUs to count; tests/runs/test_distributed.py has several.
        _, rows = run("ddp", *on_cpu)
    finally:
        torch.distributed.destroy_process_group()
    main([*DIGITS, *on_cpu])
    assert rows[0]["train_loss"] == pytest.approx(rows_of(Path("runs/quickstart/version_0"))[0]["train_loss"], rel=1e-5)


@pytest.mark.parametrize("overlay", WITH, ids=lambda path: path.stem)
def test_every_overlay_is_tested_and_says_how_it_is_used(overlay: Path) -> None:
    base = "folder" if overlay.stem == "finetune" else "cifar10"
    use = f"# python -m regularization fit --config configs/{base}.yaml --config configs/with/{overlay.name}"
    assert overlay.read_text().splitlines()[0].startswith(use)
    tests = Path(__file__).read_text() + (Path(__file__).parents[1] / "models" / "test_pretrained.py").read_text()
    assert f'"{overlay.stem}' in tests


def test_a_classifier_needs_no_cli() -> None:
    from regularization import L1

    classifier = ImageClassifier(SmallResNet(width=4), penalties={"l1": L1(1e-3)})
    assert next(iter(classifier.regularizer.selected["l1"])) == "stem.weight"
