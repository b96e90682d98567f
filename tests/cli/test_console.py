"""Output on a terminal, and output that is redirected to a file."""

import os
import pty
import re
import subprocess
import sys

import pytest

from regularization.cli.main import main

FIT = [sys.executable, "-m", "regularization", "fit", "--config", "quickstart", "--trainer.max_epochs", "1"]
# Select Graphic Rendition with a color: foreground or background, of 8, 16, 256 or all colors.
COLOR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


def output_on_a_terminal(**environment: str) -> str:
    """What ``fit`` writes to a terminal."""
    parent_end, child_end = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    env = {**inherited, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment}
    with subprocess.Popen(FIT, stdin=child_end, stdout=child_end, stderr=child_end, env=env) as process:
        os.close(child_end)
        output = b""
        try:
            while chunk := os.read(parent_end, 65536):
                output += chunk
        except OSError:
            pass  # on Linux, reading fails once the other end is closed
        os.close(parent_end)
    assert process.returncode == 0, output
    return output.decode()


@pytest.mark.slow
def test_a_terminal_gets_colors_unless_no_color_is_set() -> None:
    colored = output_on_a_terminal()
    assert COLOR.search(colored)
    plain = output_on_a_terminal(NO_COLOR="1")
    assert not COLOR.search(plain)
    for text in (colored, plain):
        assert "Epoch 1/1" in text, "the progress bar"
        assert "best validation accuracy" in text


@pytest.mark.slow
def test_a_file_gets_no_progress_bars_and_no_control_codes() -> None:
    process = subprocess.run(FIT, capture_output=True, text=True, check=True)
    assert "\x1b" not in process.stdout + process.stderr
    assert "\r" not in process.stdout + process.stderr
    assert all(line.startswith("warning: ") for line in process.stderr.splitlines())


def test_a_report_prints_the_answer_alone() -> None:
    main(FIT[3:])
    main([*FIT[3:], "--config", "with/l1"])
    command = [*FIT[:3], "report", "runs/quickstart", "runs/quickstart+l1", "--baseline", "quickstart"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "Seed set" not in done.stdout
