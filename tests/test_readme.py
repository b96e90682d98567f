"""What the README and the pages in docs/ tell people to type is typed here, shortened."""

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from regularization.cli.main import main
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
    'fit("quickstart", ': 'fit("quickstart", trainer__max_epochs=5, ',
    "workers=2)": 'workers=2, seeds=2, until="seeds", trainer__max_epochs=5)',
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
# Their blocks belong together in files: tests/test_extend.py runs them.
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
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in re.findall(r"pip install (?:-e )?'[\w.]+\[(\w+)\]'", text):
        assert extra in extras


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


@pytest.mark.slow
@each_page_of_single_blocks
def test_its_commands(page: Path) -> None:
    draw(Path("PICTURES"), {"cat": 10, "dog": 10})
    torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
    typed = list(commands(page))
    for line in typed:
        words = shlex.split(line)
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
        for call, shorter in SHORTER_CALLS.items():
            assert call in block
            block = block.replace(call, shorter)
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})
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
