import os
from collections.abc import Callable
from typing import Any

import fsspec
import pytest
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from regularization.internals.jsonargparse import preserve_parsing_settings, type_name


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


def test_the_text_of_a_type() -> None:
    parser = ArgumentParser()
    number = parser.add_argument("--number", type=int | float | None)
    switch = parser.add_argument("--switch", action="store_true")
    assert (type_name(number), type_name(switch)) == ("int | float | null", "")
