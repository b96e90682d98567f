"""What a person sees on a terminal, and a file that a run is written to."""

import os
import pty
import re
import subprocess
import sys

import pytest

FIT = [sys.executable, "-m", "regularization", "fit", "--config", "quickstart", "--trainer.max_epochs", "1"]
# Select Graphic Rendition with a colour in it: foreground, background, of 8, 16, 256 or all colours.
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


def on_a_terminal(**environment: str) -> str:
    """What ``fit`` writes there."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    env = {**kept, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment}
    with subprocess.Popen(FIT, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:
            pass  # Linux's way to say that the other end is closed
        os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


@pytest.mark.slow
def test_colours_for_those_who_want_them() -> None:
    coloured = on_a_terminal()
    assert COLOUR.search(coloured)
    plain = on_a_terminal(NO_COLOR="1")
    assert not COLOUR.search(plain)
    for text in (coloured, plain):
        assert "Epoch 0/0" in text, "the progress bar"
        assert "best validation accuracy" in text


@pytest.mark.slow
def test_a_file_gets_no_bars_and_no_control_codes() -> None:
    done = subprocess.run(FIT, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
