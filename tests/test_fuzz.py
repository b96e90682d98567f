"""Six hundred configs by Hypothesis: valid ones are instantiated, each kind of mistake gives a clear error line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from regularization.cli.main import main
from regularization.training import command
from regularization.training.training_cli import TrainingCLI

Config = dict[str, Any]

POSITIVE = some.floats(1e-6, 10)
NEGATIVE = some.floats(-10, -1e-6)
WORDS = some.sampled_from(["fast", "ten", "none at all", "1e", "--", "0x"])
NAMES = some.text("abcdefgh", min_size=3, max_size=8).map("q".__add__)
CASES = 50
pytestmark = pytest.mark.slow


def parsed(args: list[str], *_: Any) -> Path:
    """Parses and instantiates everything up to the trainer, without a run folder and without training."""
    TrainingCLI("fit", args).instantiate_trainer(logger=False, enable_checkpointing=False)
    return Path()


def made(class_path: str, **init_args: some.SearchStrategy[Any]) -> some.SearchStrategy[Config]:
    """Configs of a class with some of these arguments."""
    arguments = some.fixed_dictionaries({}, optional=init_args)
    return arguments.map(lambda chosen: {"class_path": class_path, "init_args": chosen})


PROBABILITY = some.floats(0, 0.99)
NETWORKS = made(
    "SmallResNet", width=some.integers(1, 8), dropout=PROBABILITY, stochastic_depth=some.floats(0, 0.9)
) | made("torchvision.models.resnet18", zero_init_residual=some.booleans())
SGD = made("torch.optim.SGD", lr=POSITIVE, weight_decay=POSITIVE, momentum=PROBABILITY)
OPTIMIZERS = SGD | made("torch.optim.AdamW", lr=POSITIVE, weight_decay=POSITIVE) | made("SGDW", lr=POSITIVE)
SCHEDULERS = some.none() | made(
    "WarmupDecay", warmup=some.floats(0, 0.9), decay=some.sampled_from(["linear", "cosine"])
)
PENALTIES = some.dictionaries(
    some.sampled_from(["a", "b_1", "c-2"]),
    some.none()
    | some.builds(
        lambda kind, strength: {"class_path": kind, "init_args": {"strength": strength}},
        some.sampled_from(["L1", "L2", "GroupLasso", "Orthogonal", "L2SP", "L2EMA"]),
        POSITIVE,
    ),
)
MODELS = some.fixed_dictionaries(
    {"network": NETWORKS, "optimizer": OPTIMIZERS},
    optional={
        "lr_scheduler": SCHEDULERS,
        "penalties": PENALTIES,
        "label_smoothing": some.floats(0, 1),
        "decay": some.sampled_from(["all", "weights"]),
    },
)
DATA = made("Digits", batch_size=some.integers(1, 300), val_size=some.floats(0, 0.5), flip=some.booleans())
TRAINERS = some.fixed_dictionaries({"accelerator": some.just("cpu")}, optional={"max_epochs": some.integers(1, 99)})
VALID = some.fixed_dictionaries({"model": MODELS, "data": DATA, "trainer": TRAINERS})


def put(place: str, value: some.SearchStrategy[Any]) -> some.SearchStrategy[tuple[list[str], Any]]:
    """A mistake: the path ``place`` in a valid config, and the value that replaces the one there."""
    return value.map(lambda chosen: (place.split("."), chosen))


MISTAKES = {
    "unknown section": NAMES.map(lambda name: ([name], {"x": 1})),
    "unknown option": NAMES.flatmap(
        lambda name: some.sampled_from([["model", name], ["trainer", name], ["data", "init_args", name]])
    ).map(lambda place: (place, 1)),
    "unknown class": NAMES.flatmap(
        lambda name: some.sampled_from([f"torch.optim.{name}", name, f"{name}.Net", f"regularization.{name}"])
    ).flatmap(lambda name: put("model.optimizer", some.just({"class_path": name}))),
    "a word for a number": put("trainer.max_epochs", WORDS)
    | put("data.init_args.batch_size", WORDS)
    | put("model.label_smoothing", WORDS),
    "a negative number": put("data.init_args.batch_size", some.integers(-9, 0))
    | put("model.label_smoothing", NEGATIVE)
    | put("model.timescale_epochs", NEGATIVE)
    | put("model.optimizer", NEGATIVE.map(lambda lr: {"class_path": "torch.optim.SGD", "init_args": {"lr": lr}})),
    "a negative λ": NEGATIVE.flatmap(
        lambda strength: (
            put("model.penalties", some.just({"p": {"class_path": "L1", "init_args": {"strength": strength}}}))
            | put(
                "model.optimizer",
                some.just({"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "weight_decay": strength}}),
            )
        )
    ),
    "a value outside of its range": put("seed_everything", some.integers(-9, -1) | some.integers(2**32))
    | put("data.init_args.label_noise", some.floats(1, 9))
    | put(
        "callbacks", some.floats(1.1, 9).map(lambda decay: {"a": {"class_path": "EMA", "init_args": {"decay": decay}}})
    ),
    "an option of the trainer that has no use": put("trainer.barebones", some.just(True))
    | put("trainer.use_distributed_sampler", some.just(True))
    | put("trainer.accumulate_grad_batches", some.integers(-9, 0))
    | put("trainer.check_val_every_n_epoch", some.integers(-9, 0))
    | put("trainer.gradient_clip_val", NEGATIVE),
    "another kind of value": some.sampled_from(["model", "model.penalties", "callbacks"]).flatmap(
        lambda place: put(place, WORDS)
    )
    | put("model.decay", NAMES),
}


def run(config: Config, folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(path)])


@settings(max_examples=3 * CASES, suppress_health_check=list(HealthCheck))
@given(config=VALID)
def test_valid_configs_are_instantiated(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_fit", parsed)
    run(config, tmp_path)


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_get_a_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_fit", parsed)

    @settings(max_examples=CASES, suppress_health_check=list(HealthCheck))
    @given(config=VALID, mistake=MISTAKES[kind])
    def refuse(config: Config, mistake: tuple[list[str], Any]) -> None:
        *places, last = mistake[0]
        changed = json.loads(json.dumps(config))
        part = changed
        for place in places:
            part = part.setdefault(place, {})
        part[last] = mistake[1]
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            run(changed, tmp_path)
        lines = capsys.readouterr().err.strip().splitlines()
        said = [line for line in lines if not line.startswith("warning: ")]
        assert exit_.value.code == 2
        assert said[0].startswith("error: ")
        assert len(said) <= 2
        assert len(said[0]) < 400
        assert not any(word in " ".join(said) for word in ("Traceback", "Namespace(", "typing.", "<class"))

    refuse()
