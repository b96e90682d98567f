"""The Python way: what the commands do, with what came out as objects. A mistake is raised as ``UserError``."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regularization.cli import sweep as sweep_command
from regularization.cli.console import configure_logging
from regularization.errors import UserError
from regularization.study import results
from regularization.study.results import Result
from regularization.training.command import TrainingCLI

if TYPE_CHECKING:
    from regularization.study.conclusion import Conclusion

Configs = str | Path | Sequence[str | Path]
# Options that are switches: they have no value.
_SWITCHES = {"trust", "fresh", "refit"}


def fit(config: Configs = (), **options: Any) -> Result:
    """Trains as ``python -m regularization fit`` does.

    Args:
        config: One config, or several; packaged ones by their names, such as ``"quickstart"``.
        options: As on the command line, with two underscores for a dot: ``model__optimizer__weight_decay=1e-3``.

    Returns:
        The run: its ``folder``, its ``rows`` (the metrics of each epoch), its ``accuracy`` in the last one (NaN where
        it was not validated), the path of its best ``checkpoint``, its ``test_accuracy`` if the config asks for it.

    Raises:
        UserError: Where the command would end with a line and exit code 2.
        KeyboardInterrupt: When it was stopped; ``ckpt_path="last"`` goes on.
    """
    with warnings.catch_warnings():
        configure_logging()
        try:
            experiment = TrainingCLI(["fit", *_typed(config, options)])
        except SystemExit as stopped:
            raise KeyboardInterrupt from stopped
    assert experiment.run is not None
    if (found := results.read(experiment.run, validated=False)) is None:
        raise UserError(f"the run has no epoch; what it has is in {experiment.run}")
    return found


def sweep(config: Configs = (), **options: Any) -> "Conclusion":
    """Runs a study, or goes on with it, as ``python -m regularization sweep`` does.

    Args:
        config: The study's config; packaged ones by their names, such as ``"sweeps/quickstart"``.
        options: As for ``fit``; ``workers=2`` and the like are those of the command itself.

    Returns:
        The answer: its ``sentence``, the ``arms`` with ``name``, ``mean`` and ``accuracies``, and the ``chosen`` one.

    Raises:
        UserError: Where the command would end with a line and exit code 2.
        KeyboardInterrupt: When it was stopped; the same call goes on.
    """
    if "dry_run" in options:
        raise UserError("dry_run has no answer: it is for the command line")
    with warnings.catch_warnings():
        configure_logging()
        try:
            answer = sweep_command.sweep(_typed(config, options))
        except SystemExit as stopped:
            raise KeyboardInterrupt from stopped
    assert answer is not None
    return answer


def _typed(config: Configs, options: dict[str, Any]) -> list[str]:
    """``options`` as one would type them."""
    named = [config] if isinstance(config, str | Path) else config
    args = [word for one in named for word in ("--config", str(one))]
    for key, value in options.items():
        name = f"--{key.replace('__', '.')}"
        if key not in _SWITCHES:
            args.append(f"{name}={value if isinstance(value, str | Path) else json.dumps(value)}")
        elif value:
            args.append(name)
    return args
