import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regularization.errors import UserError
from regularization.runs import directory


@pytest.mark.parametrize(
    ("configs", "name"),
    [
        (["configs/cifar10.yaml"], "cifar10"),
        (["configs/cifar10.yaml", "configs/with/l1.yaml"], "cifar10+l1"),
        (["runs/seed/version_3/config.yaml"], "seed"),
        ([], "default"),
    ],
)
def test_run_name(configs: list[str], name: str) -> None:
    assert directory.run_name([Path(config) for config in configs]) == name


def test_no_two_claims_are_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: directory.create_run_dir(tmp_path, "x"), range(40)))
    assert sorted(folder.name for folder in claimed) == sorted(f"version_{number}" for number in range(40))


def test_versions_are_counted_not_sorted_as_text(tmp_path: Path) -> None:
    for number in (2, 10, 9):
        checkpoint = tmp_path / "x" / f"version_{number}" / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
    (tmp_path / "x" / "version_11").mkdir()  # has nothing to continue from
    (tmp_path / "x" / "version_old").mkdir()
    assert directory.latest_with(tmp_path, "x", "last.ckpt").name == "version_10"
    assert directory.create_run_dir(tmp_path, "x").name == "version_12"
    with pytest.raises(UserError, match="--ckpt_path best: no run in"):
        directory.latest_with(tmp_path, "x", "best.ckpt")


def test_a_checkpoint_belongs_to_a_run_or_to_none(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert directory.run_of(checkpoint) is None
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    assert directory.run_of(checkpoint) == tmp_path / "run"
    assert directory.run_of(tmp_path / "run" / "last.ckpt") is None


def test_results_are_added_to(tmp_path: Path) -> None:
    directory.add_result(tmp_path, {"best": 1, "last": 2})
    directory.add_result(tmp_path, {"last": 3, "test": 4})
    assert json.loads((tmp_path / "result.json").read_text()) == {"best": 1, "last": 3, "test": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_release_removes_only_what_is_empty(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    directory.remove_if_empty(directory.create_run_dir(tmp_path / "runs", "x"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
