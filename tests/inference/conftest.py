"""A trained network for the tests of its uses."""

import pytest

from regularization import load
from regularization.cli.main import main
from regularization.inference.trained_model import TrainedModel
from tests.training.test_command import QUICK, RUN


@pytest.fixture
def digits() -> TrainedModel:
    """A network trained on digits for two epochs, in the run folder ``RUN``."""
    main(["fit", *QUICK, "--trainer.max_epochs", "2"])
    return load(RUN)
