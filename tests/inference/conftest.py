"""Networks for the tests of inference."""

import pytest

from regularization import Preprocess, SmallResNet, load
from regularization.cli.main import main
from regularization.inference.trained_model import TrainedModel
from tests.training.test_command import QUICK, RUN


@pytest.fixture
def digits() -> TrainedModel:
    """A network trained on digits for two epochs, in the run folder ``RUN``."""
    main(["fit", *QUICK, "--trainer.max_epochs", "2"])
    return load(RUN)


@pytest.fixture
def tiny_model() -> TrainedModel:
    """A network with random weights for 16×16 images of three classes."""
    return TrainedModel(SmallResNet(num_classes=3, width=4), Preprocess(16), ["cat", "dog", "owl"])
