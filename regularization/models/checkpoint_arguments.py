"""Instantiates the arguments of a class from the config in a checkpoint."""

import copy
from contextlib import ExitStack
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import nn

from regularization.errors import UserError, translate_error
from regularization.runs import checkpoint_config, safe_loading


def arguments_in(config: Any, cls: type[nn.Module], trust_it: bool, given: dict[str, Any]) -> dict[str, Any]:
    """Instantiates the arguments of ``cls`` under ``model`` in ``config``; those in ``given`` replace them.

    Args:
        config: The config in a checkpoint.
        cls: The class of the model.
        trust_it: Whether to import any class that the config names, not only those of this program, torch, torchvision
            and timm.
        given: Arguments that take the place of those in the config.

    Raises:
        UserError: If the config is wrong, or names a class that is not trusted.
    """
    parser = ArgumentParser(exit_on_error=False)
    skipped = {*given, "weights"}  # the checkpoint has its own weights
    parser.add_class_arguments(cls, "model", skip=skipped, instantiate=False)
    # A copy, because the parser changes what it is given.
    model = copy.deepcopy(config.get("model") or {})
    described = {name: value for name, value in model.items() if name not in skipped}
    if "network" not in described:
        return given

    def parse(part: Any) -> Namespace:
        try:
            options: Namespace = parser.parse_object({"model": part})
            return options
        except ArgumentError as error:
            raise UserError(translate_error(str(error), [])) from error

    with ExitStack() as restrictions:
        if trust_it:
            options = parse(described)
        else:
            restrictions.enter_context(safe_loading.restrict_imports([]))
            options = checkpoint_config.accept(described, parse, set())
        return {**parser.instantiate(options).model, **given}
