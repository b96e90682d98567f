"""The record of a study, ``study.yaml``, and the check whether a changed config still describes this study."""

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from regularization.errors import UserError
from regularization.study.account import planned_looks
from regularization.training.configs import split_args

if TYPE_CHECKING:
    from regularization.study.plan import Plan

# Options of the study itself on which its finished trials depend.
FIXED = ("search", "score", "until")


def study_record(plan: "Plan", command: str) -> str:
    """The properties that identify the study, as YAML; ``command`` is the command line that was typed."""
    record: dict[str, Any] = {"study": dataclasses.asdict(plan.study), "options": plan.common}
    record |= {"threads": plan.threads, "resamples": plan.study.resamples}
    record["arms"] = {arm.name: list(arm.args) for arm in plan.arms}
    words = [word for arm in plan.arms for word in arm.args]
    configs = {path: path.read_bytes() for path in split_args([*plan.common, *words])[0]}
    record["configs"] = {str(path): hashlib.sha256(text).hexdigest()[:16] for path, text in configs.items()}
    record |= {"compared": plan.compared, "command": command, "looks": planned_looks(plan.study)}
    record["baseline"] = None if plan.baseline is None else plan.baseline.name
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True)


def check_extends(path: Path, plan: "Plan") -> None:
    """Checks that ``plan`` would run the trials of the study that ``path`` describes in the same way.

    Seeds and arms may be added or removed.

    Raises:
        UserError: When they would be run differently; the message names what has changed.
    """
    then, now = yaml.safe_load(path.read_text(encoding="utf-8")), yaml.safe_load(study_record(plan, ""))
    if missing := now.keys() - then.keys():
        names = ", ".join(sorted(missing))
        raise UserError(f"{path} is of an older version, without {names}.\nAdd --fresh to start another study.")
    configs = then["configs"]
    if changed := [name for name, digest in now["configs"].items() if configs.get(name, digest) != digest]:
        raise _refusal(path, f"with another content of {', '.join(changed)}")
    fixed: list[tuple[str, Any, Any]] = [(name, then["study"].get(name), now["study"][name]) for name in FIXED]
    fixed += [("options", then["options"], now["options"]), ("threads", then["threads"], now["threads"])]
    fixed += [(f"arm {name}", args, now["arms"].get(name, args)) for name, args in then["arms"].items()]
    for name, before, after in fixed:
        if _by_content(before, configs) != _by_content(after, configs | now["configs"]):
            raise _refusal(path, f"with another {name}: {_text(before)}, not {_text(after)}")
    if then["resamples"] != now["resamples"]:
        same = str(then["resamples"]).lower()
        raise UserError(
            f"{path.parent}: by default, more than two seeds also draw other validation sets; fewer do not.\n"
            f"Add --resample_split={same} to continue it as it is, or --fresh to start another study."
        )


def _by_content(value: Any, digests: dict[str, str]) -> Any:
    """Replaces each config path in a command line by the config's digest: paths may differ between machines."""
    return [digests.get(word, word) for word in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _refusal(path: Path, change: str) -> UserError:
    return UserError(
        f"{path.parent} is a study {change}.\nUndo the change to continue it, or add --fresh to start another study."
    )
