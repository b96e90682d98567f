import threading
from pathlib import Path

import pytest

from regularization.callbacks.tensorboard import TensorBoard, ignore_file_errors_in_threads


def raise_in_thread(error: Exception) -> None:
    def target() -> None:
        raise error

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()


def test_a_logger_changes_nothing_in_the_process(tmp_path: Path) -> None:
    hook = threading.excepthook
    TensorBoard(tmp_path / "runs" / "name" / "version_0").log_metrics({"loss": 1.0}, step=0)
    assert threading.excepthook is hook


def test_only_file_errors_are_ignored_in_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # restored after the test
    ignore_file_errors_in_threads()
    raise_in_thread(OSError("no space"))
    assert capsys.readouterr().err == ""
    raise_in_thread(ValueError("a bug"))
    assert "ValueError: a bug" in capsys.readouterr().err
