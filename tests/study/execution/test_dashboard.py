"""The quickstart study, watched with optuna-dashboard in a real browser while it runs."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import started
from tests.study.execution.coordinators import start
from tests.study.report.test_browser import browser  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow
JOURNAL = Path("runs/quickstart/version_0/optuna/journal.log")


def until(condition: Callable[[], Any], process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, Path("out.txt").read_text()
        time.sleep(0.1)
    raise AssertionError


def test_trials_parameters_and_curves_of_a_running_study(browser: Any) -> None:  # noqa: F811
    pytest.importorskip("optuna_dashboard")
    sweep = start(["sweep", "--config", "sweeps/quickstart", "--workers", "2", "--threads", "1"])
    until(lambda: JOURNAL.is_file() and JOURNAL.read_text().count('"intermediate_value"') > 36, sweep)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["-c", "from optuna_dashboard._cli import main; main()", str(JOURNAL), "--port", port]
    with Path("dashboard.txt").open("wb") as out:
        dashboard = started(subprocess.Popen([sys.executable, *words], stdout=out, stderr=out))
    until(lambda: "Listening" in Path("dashboard.txt").read_text(), dashboard)

    def text() -> str:
        return str(browser.find_element("tag name", "body").text)

    page = f"http://127.0.0.1:{port}/dashboard/studies/0"
    browser.get(page)
    # The curves of all trials.
    until(lambda: "Intermediate values" in text() and "(running)" in text(), sweep)
    assert "quickstart/version_0" in text()
    assert browser.find_elements("css selector", ".scatterlayer .trace")
    # A trial that is complete, with its parameters, attributes and scores.
    browser.get(f"{page}/trials?numbers=1")
    until(lambda: "Trial 1" in text() and "weight_decay=0.03" in text(), sweep)
    assert "model.optimizer.weight_decay 0.03" in text()
    assert "final/weight_decay=0.03/seed_0" in text()
    assert "Intermediate Values" in text()
    browser.save_screenshot("dashboard.png")
    assert sweep.poll() is None, "it was watched while it ran"
    sweep.terminate()
    assert sweep.wait(timeout=60) == 143
