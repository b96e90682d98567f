"""Runs what the README and the pages in docs/ tell people to type, shortened."""

import dataclasses
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from regularization.cli import completion
from regularization.cli.main import main
from regularization.study.config import Study
from regularization.training.help import actions_of
from tests.conftest import CONFIGS
from tests.data.test_image_folder import draw

ROOT = CONFIGS.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FEW = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1"]
SHORTER = {
    "fit": FEW,
    "sweep": [*FEW, "--seeds", "2", "--until", "seeds"],
    "test": ["--trainer.limit_test_batches", "2"],
}
SHORTER_CALLS = {
    "README": {
        'fit("quickstart", ': 'fit("quickstart", trainer__max_epochs=5, ',
        "workers=2)": 'workers=2, seeds=2, until="seeds", trainer__max_epochs=5)',
    },
    "studies": {"trainer__max_epochs=20": "trainer__max_epochs=2"},
}

# Options of SLURM and of our benchmarks.
OF_OTHERS = {"--signal", "--quick", "--whole", "--compare"}
# Prefixes of dicts with names that users choose, and of classes with options of their own.
INSIDE = ("--model.penalties.", "--model.mixing.", "--callbacks.", "--data.augmentations.", "--data.")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
# Without extend.md: its blocks belong together in files, and tests/test_extend.py runs them.
each_page_of_single_blocks = pytest.mark.parametrize(
    "page", [path for path in PAGES if path.stem != "extend"], ids=lambda path: path.stem
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    for block in blocks(page, "bash"):
        yield from block.strip().splitlines()


@each_page
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (ROOT / config).is_file(), config
    for module in re.findall(r"python -m tests\.([\w.]+)", text):
        path = ROOT / "tests" / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r"pip install (?:-e )?'[\w.]+\[(\w+)\]'", text):
        assert extra in extras


@each_page
def test_options_that_a_page_names_exist(page: Path, known_options: set[str]) -> None:
    """Checks inline code and commands of this program; options inside of dicts and classes by their first part."""
    text = page.read_text()
    commands = re.findall(r"^(?:srun )?python -m regularization .*", text, re.MULTILINE)
    words = [word for line in commands for word in shlex.split(line, comments=True) if word.startswith("--")]
    words += re.findall(r"`(--[a-z][\w.-]*)", text)
    for word in words:
        option = word.partition("=")[0]
        assert option in known_options or option in OF_OTHERS or option.startswith(INSIDE), option


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    parsers = [parser for own in completion._parsers().values() for parser in own]
    return {option for parser in parsers for action in actions_of(parser) for option in action.option_strings}


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 200


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    listed = {line for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for line in block.split()}
    assert {page.stem for page in PAGES[1:]} - {"index"} <= listed


def test_the_architecture_page_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "regularization"
    for path in package.iterdir():
        if path.name != "__pycache__" and path.name != "configs":
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text
    folders = "|".join(path.name for path in package.iterdir() if path.is_dir())
    for module in re.findall(rf"\b((?:{folders})/\w+)(?:\.py)?\b", text):
        assert (package / f"{module}.py").is_file() or (package / module).is_dir(), module


def test_the_page_on_studies_lists_every_option_of_a_study() -> None:
    text = (ROOT / "docs" / "studies.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert {field.name for field in dataclasses.fields(Study)} <= set(listed)


@pytest.mark.slow
@each_page_of_single_blocks
def test_its_commands(page: Path) -> None:
    for folder in ("PICTURES", "NEW_PICTURES"):
        draw(Path(folder), {"cat": 10, "dog": 10})
    torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
    typed = list(commands(page))
    for line in typed:
        words = shlex.split(line, comments=True)
        if words[0] == "pip":
            continue
        assert words[:3] == ["python", "-m", "regularization"], line
        if re.search("cifar10|fast", line) and "CIFAR10_ROOT" not in os.environ:
            continue
        print(line)
        main([*words[3:], *SHORTER.get(words[3], [])])
    if page.name == "images.md":
        assert Path("predictions.csv").is_file()
        assert Path("best.onnx").is_file()


@pytest.mark.slow
@each_page_of_single_blocks
def test_its_python(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    for block in blocks(page, "python"):
        for call, shorter in SHORTER_CALLS.get(page.stem, {}).items():
            assert call in block
            block = block.replace(call, shorter)
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})
    if page.stem == "README":
        assert Path("answer.pdf").is_file()


@each_page_of_single_blocks
def test_its_configs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page, "yaml"):
        Path("block.yaml").write_text(block)
        if "base:" in block:
            if "CIFAR10_ROOT" in os.environ:
                main(["sweep", "--config", "block.yaml", "--dry-run"])
                assert "trials of" in capsys.readouterr().out
        else:
            with pytest.raises(SystemExit) as exit_:
                main(["fit", "--config", "quickstart", "--config", "block.yaml", "--print_config"])
            assert exit_.value.code == 0
