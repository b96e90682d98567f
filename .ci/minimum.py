"""Prints the oldest versions that pyproject.toml allows, one a line, for pip; those of the tests and searches too."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
# In a dict: what two lists name is printed once.
for requirement in dict.fromkeys([*project["dependencies"], *extras["test"]]):
    # For instance jsonargparse[signatures]>=4.53,<5.
    if found := re.match(r"([\w.-]+(?:\[[\w,-]+\])?)\s*>=\s*([\w.]+)", requirement):
        print(f"{found[1]}=={found[2]}")
