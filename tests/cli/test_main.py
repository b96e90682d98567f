"""The entry point: the usage, and the requests that are answered before torch is imported."""

import os
import subprocess
import sys

import pytest

from regularization import __version__
from regularization.cli.main import COMMANDS, main

# Runs a command, then prints its exit code and whether torch was imported.
SCRIPT = """
import sys
from regularization.cli.main import main
code = 0
try:
    main(sys.argv[1:])
except SystemExit as exit_:
    code = exit_.code
print(code, "torch" in sys.modules)
"""


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(args)
    output = capsys.readouterr()
    assert output.err == ""
    lines = output.out.splitlines()
    assert lines[0].startswith("usage: regularization COMMAND [options]")
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("args", [["--help"], ["fit", "--help"]])
def test_an_encoding_without_greek_letters_is_enough(args: list[str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "COLUMNS": "100"}
    command = [sys.executable, "-m", "regularization", *args]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert b"usage: " in done.stdout
    assert (b"\\u03bb" in done.stdout) == (args[0] == "fit")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-V", "--version"):
        main([option])
        assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (0, []),
        (0, ["--help"]),
        (0, ["--version"]),
        (2, ["fti"]),
        (0, ["predict", "--help"]),
        (2, ["predict", "--ckpt_path", "x", "--imagse", "."]),
        (0, ["export", "--help"]),
        (2, ["export", "--ckpt_path", "x", "--format", "onxn"]),
        (0, ["report", "--help"]),
        (2, ["report", ".", "--outptu", "x"]),
        (0, ["completion", "--help"]),
        (2, ["completion", "fish"]),
        (0, ["sweep", "--help"]),
        (2, ["sweep", "--workers", "many"]),
    ],
)
def test_answers_that_do_not_import_torch(code: int, args: list[str]) -> None:
    process = subprocess.run([sys.executable, "-c", SCRIPT, *args], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == f"{code} False"
