"""The Python interface: what the commands do, with the results as objects."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from regularization.cli import sweep as sweep_command
from regularization.cli.console import configure_logging
from regularization.errors import UserError
from regularization.study import results
from regularization.study.results import Result
from regularization.training.command import run_fit

if TYPE_CHECKING:
    from regularization.study.report.answer import StudyAnswer

Configs = str | Path | Sequence[str | Path]
# Options without a value.
_SWITCHES = {"trust", "fresh", "refit"}


def fit(config: Configs = (), **options: Any) -> Result:
    """Trains as ``python -m regularization fit`` does.

    Args:
        config: One config, or several; configs of the program by their names, such as ``"quickstart"``.
        options: The options of the command, with two underscores for a dot: ``model__optimizer__weight_decay=1e-3``.

    Returns:
        The run: its ``folder``, its ``rows`` (the metrics of each epoch), its ``accuracy`` in the last epoch (NaN
        without validation), the path of its best ``checkpoint``, its ``test_accuracy`` if the config asks for it.

    Raises:
        UserError: Where the command would print an error and exit with code 2.
        KeyboardInterrupt: When the run is stopped; ``ckpt_path="last"`` continues it.
    """
    with _unchanged_process():
        run_dir = run_fit(_to_args(config, options))
    if (result := results.read(run_dir, validated=False)) is None:
        raise UserError(f"no epoch was completed in {run_dir}")
    return result


def sweep(config: Configs = (), **options: Any) -> "StudyAnswer":
    """Runs a study, or continues it, as ``python -m regularization sweep`` does.

    Args:
        config: The study's config; those of the program by their names, such as ``"sweeps/quickstart"``.
        options: As for ``fit``; ``workers=2`` and the like are options of the command itself.

    Returns:
        The conclusion: its ``sentence``, the ``arms`` with ``name``, ``mean`` and ``accuracies``, and the ``chosen``
        arm; the study's ``folder`` and ``report``; ``frame()``, all trials as a pandas table; ``plot()``, a figure.

    Raises:
        UserError: Where the command would print an error and exit with code 2.
        KeyboardInterrupt: When the study is stopped; the same call continues it.
    """
    if "dry_run" in options:
        raise UserError("dry_run prints a plan and has no conclusion: use it on the command line")
    with _unchanged_process():
        conclusion = sweep_command.sweep(_to_args(config, options))
    assert conclusion is not None
    return conclusion


@contextmanager
def _unchanged_process() -> Iterator[None]:
    """Leaves the caller's process as it was: environment, random state, threads, warnings and log levels.

    Raises:
        KeyboardInterrupt: In place of the exit of a command that was stopped.
    """
    environment, threads = dict(os.environ), torch.get_num_threads()
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), isolate_rng():
            configure_logging()
            yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        # Lightning's seed, PL_GLOBAL_SEED, is an environment variable.
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _to_args(config: Configs, options: dict[str, Any]) -> list[str]:
    """The options as one would type them."""
    configs = [config] if isinstance(config, str | Path) else config
    args = [word for item in configs for word in ("--config", str(item))]
    for key, value in options.items():
        option = f"--{key.replace('__', '.')}"
        if key not in _SWITCHES:
            args.append(f"{option}={value if isinstance(value, str | Path) else json.dumps(value)}")
        elif value:
            args.append(option)
    return args
