"""The preparation of the server from which trials are forked."""

import importlib
import logging
import sys

import pytest

from tests.conftest import BASE

PRELOAD = "regularization.study.execution.preload"


@pytest.mark.parametrize("root", [[], ["--data=ImageFolder", "--data.root=absent"]], ids=["images", "no images"])
def test_nothing_is_printed(
    root: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logger.level)
        logger.setLevel(logging.INFO)
    monkeypatch.setenv("REGULARIZATION_PRELOAD", "\n".join(["--config", str(BASE), *root]))
    monkeypatch.delitem(sys.modules, PRELOAD, raising=False)
    importlib.import_module(PRELOAD)
    assert capfd.readouterr() == ("", "")
    # This check also works if an earlier test has left the handler with another stream.
    assert not logging.getLogger("lightning.fabric").isEnabledFor(logging.INFO)
