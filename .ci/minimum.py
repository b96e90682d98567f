"""Prints the oldest versions that pyproject.toml allows, one per line, for pip, including the extra ``test``."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
# A dict removes duplicates: a requirement of both lists is printed once.
for requirement in dict.fromkeys([*project["dependencies"], *extras["test"]]):
    # For instance jsonargparse[signatures]>=4.53,<5.
    if found := re.match(r"([\w.-]+(?:\[[\w,-]+\])?)\s*>=\s*([\w.]+)", requirement):
        print(f"{found[1]}=={found[2]}")
