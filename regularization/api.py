"""The Python interface: the commands as functions that return their results as objects."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from regularization.cli import sweep as sweep_command
from regularization.cli.console import configure_logging
from regularization.errors import UserError
from regularization.study import results
from regularization.study.results import Result
from regularization.training.command import run_fit
from regularization.training.configs import to_text

if TYPE_CHECKING:
    from regularization.study.report.answer import StudyAnswer

# A config is the name of a file, or the options themselves.
Config = str | Path | Mapping[str, Any]
Configs = Config | Sequence[Config]
# Options without a value.
_SWITCHES = {"trust", "fresh", "refit", "retry_failed"}


def fit(config: Configs = (), **options: Any) -> Result:
    """Trains as ``python -m regularization fit`` does.

    Args:
        config: One config, or several. Each is a file, the name of a config of the program, such as ``"quickstart"``,
            or a dict of options, such as ``{"trainer": {"max_epochs": 3}}``.
        options: The options of the command, with two underscores for a dot: ``model__optimizer__weight_decay=1e-3``.
            Values may be NumPy numbers, and NumPy arrays in place of lists.

    Returns:
        The run, with its ``folder``, its ``rows`` (the metrics of each epoch), its ``accuracy`` in the last epoch (NaN
        without validation), the path of its best ``checkpoint``, its ``test_accuracy`` if the config asks for it.

    Raises:
        UserError: When the command would print an error and exit with code 2.
        KeyboardInterrupt: When the run is stopped; ``ckpt_path="last"`` continues it.
    """
    with _unchanged_process(), _to_args(config, options) as args:
        run_dir = run_fit(args)
    if not run_dir.is_dir():
        raise UserError("trainer__fast_dev_run keeps nothing, so there is no result: use the command fit for it")
    if (result := results.read(run_dir, validated=False)) is None:
        raise UserError(f"no epoch was completed in {run_dir}")
    return result


def sweep(config: Configs | Mapping[str, Any] = (), **options: Any) -> "StudyAnswer":
    """Runs a study, or continues it, as ``python -m regularization sweep`` does.

    Args:
        config: A file, the name of a study of the program, such as ``"sweeps/quickstart"``, or the content of a study's
            file as a dict: ``{"base": "quickstart", "vary": {"model.optimizer.weight_decay": [0, 1e-3]}}``.
        options: As for ``fit``; some, such as ``workers=2``, are options of the command ``sweep`` itself.

    Returns:
        The conclusion: its ``sentence``, the ``arms`` with ``name``, ``mean`` and ``accuracies``, and the ``chosen``
        arm; the study's ``folder`` and ``report``; ``frame()``, all trials as a pandas table; ``plot()``, a figure.

    Raises:
        UserError: When the command would print an error and exit with code 2.
        KeyboardInterrupt: When the study is stopped; the same call continues it.
    """
    if isinstance(config, Mapping):
        options = {**config, **options}
        config = ()
    if options.pop("dry_run", False):
        raise UserError("dry_run prints a plan and has no conclusion: use it on the command line")
    with _unchanged_process(), _to_args(config, options) as args:
        conclusion = sweep_command.sweep(args)
    assert conclusion is not None
    return conclusion


@contextmanager
def _unchanged_process() -> Iterator[None]:
    """Leaves the caller's process as it was: environment, random state, threads, warnings and log levels.

    Raises:
        KeyboardInterrupt: When the command was stopped, in place of SystemExit.
        UserError: When the time limit has stopped it.
    """
    environment, threads = dict(os.environ), torch.get_num_threads()
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.profilers")
    ]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), isolate_rng():
            configure_logging()
            yield
    except SystemExit as error:
        if not error.code:
            raise UserError('hours: the time limit has stopped the run; ckpt_path="last" continues it') from error
        raise KeyboardInterrupt from error
    finally:
        # Lightning's seed, PL_GLOBAL_SEED, is an environment variable.
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _to_args(config: Configs, options: dict[str, Any]) -> Iterator[list[str]]:
    """Yields the options as command-line arguments; a config that is a dict is written to a temporary file."""
    configs = [config] if isinstance(config, str | Path | Mapping) else config
    with ExitStack() as files:
        args = [word for item in configs for word in ("--config", _path_of(item, files))]
        for key, value in options.items():
            option = f"--{key.replace('__', '.')}"
            if key not in _SWITCHES:
                args.append(f"{option}={value if isinstance(value, str | Path) else _to_json(value)}")
            elif value:
                args.append(option)
        yield args


def _path_of(config: Config, files: ExitStack) -> str:
    """The name of a config; a dict is written to a file, which is removed when ``files`` is closed."""
    if not isinstance(config, Mapping):
        return str(config)
    # Run folders are named after their config files; without one, they are named ``default``.
    path = Path(files.enter_context(TemporaryDirectory())) / "default.yaml"
    path.write_text(to_text(json.loads(_to_json(config))), encoding="utf-8")
    return str(path)


def _to_json(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """Converts values that JSON lacks: numbers and arrays of NumPy and PyTorch, paths, and read-only mappings.

    Raises:
        UserError: When the value has another type.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise UserError(f"{value!r} of type {type(value).__name__} cannot be an option: give what one would type")
