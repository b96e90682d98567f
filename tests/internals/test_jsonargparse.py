import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import fsspec
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from regularization.internals.jsonargparse import (
    no_config_files,
    preserve_parsing_settings,
    try_integers_first,
    type_name,
)
from regularization.training.arguments import make_parser


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--function", type=Callable[..., Any])
    parser.add_argument("--config", action="config")
    return parser


def test_import_lists_are_restored(parser: ArgumentParser) -> None:
    args = ["--function=os.path.join"]
    with preserve_parsing_settings():
        set_parsing_settings(import_path_denylist=["*"])
        with pytest.raises(ArgumentError, match=r"Importing 'os.path.join' is not allowed"):
            parser.parse_args(args)
    assert parser.parse_args(args).function is os.path.join


def test_modes_of_reading_are_restored_after_an_error(parser: ArgumentParser) -> None:
    fsspec.filesystem("memory").pipe("/settings.yaml", b"function: os.path.join")
    args = ["--config=memory://settings.yaml"]
    with preserve_parsing_settings():
        set_parsing_settings(config_read_mode_fsspec_enabled=True)
        with pytest.raises(ArgumentError), preserve_parsing_settings():  # noqa: PT012
            set_parsing_settings(config_read_mode_fsspec_enabled=False)
            parser.parse_args(args)
        assert parser.parse_args(args).function is os.path.join


def test_no_file_is_read_in_place_of_a_value(parser: ArgumentParser) -> None:
    parser.add_argument("--network", type=torch.nn.Module, sub_configs=True)
    parser.add_argument("--networks", type=list[torch.nn.Module], sub_configs=True)
    Path("identity").write_text("class_path: torch.nn.Identity")
    Path("settings.yaml").write_text("function: os.path.join")
    attempts = ["--network=identity", "--networks=[identity]", "--config=settings.yaml", "--networks=identity"]
    for arg in attempts:
        with no_config_files(), pytest.raises(ArgumentError):
            parser.parse_args([arg])
    for arg in attempts[:3]:
        assert parser.parse_args([arg])


def test_the_text_of_a_type() -> None:
    parser = ArgumentParser()
    number = parser.add_argument("--number", type=int | float | None)
    switch = parser.add_argument("--switch", action="store_true")
    assert (type_name(number), type_name(switch)) == ("int | float | null", "")


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None), ("true", True)])
def test_integers_are_tried_first(text: str, value: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--number", type=Union[float, int, bool, None])  # noqa: UP007 - the type of |, in this order
    assert isinstance(parser.parse_args(["--number=1"]).number, float)
    try_integers_first(parser)
    number = parser.parse_args([f"--number={text}"]).number
    assert (type(number), number) == (type(value), value)


def test_the_limits_of_the_trainer_are_integers_or_shares() -> None:
    parser = make_parser("fit")
    names = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches", "val_check_interval")
    for name in names:
        assert [type(parser.parse_args([f"--trainer.{name}={text}"]).trainer[name]) for text in ("1", "1.0")] == [
            int,
            float,
        ]
