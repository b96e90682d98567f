"""Config files: found by name, read, and merged into one config before anything is parsed."""

import copy
import errno
import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

import regularization
from regularization.errors import UserError, suggest
from regularization.runs.safe_loading import with_current_paths

Config = dict[str, Any]

# Options that are dicts with keys chosen by the user.
_NAMED = ("model.penalties", "callbacks")
# Parses YAML into nodes without constructing objects; PyYAML's wheels have a parser in C.
_COMPOSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Keys of a class and its arguments in a config.
_CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}


def split_args(args: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Splits a command line into the config files that ``--config`` names, and everything else.

    Raises:
        UserError: When a config does not exist.
    """
    paths, options = [], []
    words = iter(args)
    for word in words:
        if word in ("-c", "--config"):
            if (name := next(words, None)) is None:
                raise UserError("--config needs a file, or the name of a config that comes with the program")
            paths.append(find_config(name))
        elif word.startswith("--config="):
            paths.append(find_config(word.removeprefix("--config=")))
        else:
            options.append(word)
    return paths, options


def find_config(name: str, beside: Path | None = None) -> Path:
    """The file of the config ``name``: an existing file, else a config that comes with the program.

    Args:
        name: A file, relative to the current folder or to a folder that contains ``beside``; or a name, such as
            ``quickstart`` or ``with/l1``, with or without ``configs/`` and ``.yaml``.
        beside: The config file that contains the name, if one does.

    Raises:
        UserError: When there is none; suggests the closest name.
    """
    folders = [Path(), *(beside.absolute().parents if beside is not None else ())]
    for path in (folder / name for folder in folders):
        # A folder may have the name of a config. Not is_file(): a pipe of the shell, <(…), is not a regular file.
        if path.exists() and not path.is_dir():
            return path
    bare = name.removeprefix("configs/").removesuffix(".yaml")
    if bare in config_names():
        return _packaged_folder() / f"{bare}.yaml"
    reason = os.strerror(errno.EISDIR if os.path.isdir(name) else errno.ENOENT)
    message = f"can't read the config {name}: {reason}"
    if beside is not None:
        message = f"there is no config {name}, neither here nor beside {beside}"
    raise UserError(message + _suggest_config(bare))


def config_names() -> list[str]:
    """The names of the configs that come with the program."""
    folder = _packaged_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def short_name(path: Path) -> str:
    """The text by which ``find_config`` finds the file: the name of a config of the program, or a path."""
    packaged, here = _packaged_folder(), Path.cwd()
    if path.is_relative_to(packaged):
        return path.relative_to(packaged).with_suffix("").as_posix()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def read_config(path: Path) -> Config:
    """The options in the YAML file ``path``; a key such as ``trainer.max_epochs`` stands for nested options.

    Raises:
        UserError: When the file can't be read or does not contain options.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = load_yaml(text)
        duplicate = _duplicate_key(yaml.compose(text, Loader=_COMPOSER))
    except OSError as error:
        raise UserError(f"can't read the config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} has no options in it: a config is lines of 'name: value'")
    if duplicate is not None:
        # YAML would take the last one.
        raise UserError(f"{path} has {duplicate.value} twice, the second time in line {duplicate.start_mark.line + 1}")
    config: Config = with_current_paths(content)
    return config


def load_yaml(text: str) -> Any:
    """Parses ``text`` with jsonargparse's loader: plain YAML 1.1 reads ``1e-5`` as a string."""
    return get_loader("yaml")(text)


def _duplicate_key(node: yaml.Node | None) -> yaml.Node | None:
    """The second occurrence of a duplicate key in any mapping in ``node``; None if there is none."""
    children: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        keys: list[yaml.Node] = [key for key, _ in node.value]
        names = [(key.tag, key.value) for key in keys]
        for index, name in enumerate(names):
            if name in names[:index]:
                return keys[index]
        children = [value for _, value in node.value]
    return next((key for child in children if (key := _duplicate_key(child)) is not None), None)


def to_text(config: Config) -> str:
    """``config`` as one line of YAML, to be parsed in place of a file."""
    text: str = yaml.safe_dump(config, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.strip()


def merge_configs(configs: Sequence[Config]) -> Config:
    """One config from several: later values win, dicts are merged, null replaces whatever was there.

    A class with another ``class_path`` replaces the former one together with its arguments; arguments of the same
    class are merged.

    Raises:
        UserError: When a section of a config has the wrong type.
    """
    merged: Config = {}
    for config in configs:
        _check_sections(config)
        _name_mixing(merged, config)
        _merge(merged, config)
    return merged


def _merge(base: Config, update: Config) -> None:
    for key, value in update.items():
        base[key] = _merged(base[key], value) if key in base else copy.deepcopy(value)


def _name_mixing(base: Config, update: Config) -> None:
    """Turns a single class in ``model.mixing`` into an entry such as ``mixup`` if ``update`` adds entries by name."""
    old, new = ((config.get("model") or {}).get("mixing") for config in (base, update))
    old = {"class_path": old} if isinstance(old, str) else old
    if not isinstance(old, dict) or "class_path" not in old or not isinstance(new, dict) or _CLASS_KEYS & new.keys():
        return
    if any(isinstance(value, dict) and "class_path" in value for value in new.values()):
        base["model"]["mixing"] = {old["class_path"].rpartition(".")[2].lower(): old}


def _merged(old: Any, new: Any) -> Any:
    """The value of an option that two configs set."""
    old, new = _as_class(old, new), _as_class(new, old)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return copy.deepcopy(new)
    if "class_path" in old and not _CLASS_KEYS & new.keys():
        new = {"init_args": new}
    if not _same_class(old.get("class_path"), new.get("class_path", old.get("class_path"))):
        return copy.deepcopy(new)
    result = dict(old)
    _merge(result, new)
    return result


def _as_class(value: Any, other: Any) -> Any:
    """Converts a bare class path to the dict that it stands for, if ``other`` is a class."""
    is_class = isinstance(other, dict) and bool(_CLASS_KEYS & other.keys())
    return {"class_path": value} if isinstance(value, str) and is_class else value


def _same_class(first: str | None, second: str | None) -> bool:
    """Whether two class paths name one class: ``SGD`` is ``torch.optim.SGD``. Nothing is imported to find out."""
    if first is None or second is None or first == second:
        return first == second
    (module, _, name), (other_module, _, other_name) = first.rpartition("."), second.rpartition(".")
    ours = all(path.split(".")[0] == "regularization" for path in (module, other_module))
    return name == other_name and (not module or not other_module or ours)


def _check_sections(config: Config) -> None:
    model = config.get("model") or {}
    if not isinstance(model, dict):
        raise UserError(f"model: must hold options such as network and optimizer, not {model!r}")
    for option, value in zip(_NAMED, (model.get("penalties"), config.get("callbacks")), strict=True):
        if not isinstance(value or {}, dict):
            raise UserError(f"{option}: must be a dict by names that you choose, not {value!r}")


def _packaged_folder() -> Path:
    """The configs that come with the program: in the package, or beside it in a checkout."""
    package = Path(regularization.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _suggest_config(name: str) -> str:
    """Configs with the same last name in any folder, else the closest names in the same folder."""
    folder, _, last = name.rpartition("/")
    parts = {config: config.rpartition("/") for config in config_names()}
    same_name = [config for config, (_, _, stem) in parts.items() if stem == last]
    same_folder = {stem: config for config, (parent, _, stem) in parts.items() if parent == folder}
    return suggest(same_name or [same_folder[stem] for stem in get_close_matches(last, same_folder, n=2)])
