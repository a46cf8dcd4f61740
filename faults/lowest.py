"""Prints the lowest allowed version of each dependency: python -m faults.lowest > FILE.

The file is a list of constraints for pip, which chooses what the project does not name itself.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,-]+\])?\s*(?:>=|==)\s*(?P<version>[\w.]+)")


def lowest_versions(project: Mapping[str, Any]) -> list[str]:
    """Lists the lower bounds of a project as exact versions.

    >>> lowest_versions({"name": "a", "dependencies": ["numpy>=2", "pillow>=11"]})
    ['numpy==2', 'pillow==11']

    Args:
        project: Table `project` of a `pyproject.toml`.

    Returns:
        `NAME==VERSION` for each dependency of the project and of its extras, sorted.

    Raises:
        ValueError: A dependency has no lower bound, or two different ones.
    """
    requirements = list(project["dependencies"])
    for extra in project.get("optional-dependencies", {}).values():
        requirements += extra
    bounds: dict[str, str] = {}
    for requirement in requirements:
        if requirement.startswith(f"{project['name']}["):  # the project's own extras
            continue
        match = _BOUND.fullmatch(requirement)
        if match is None:
            raise ValueError(
                f"pyproject.toml: {requirement} has no lower bound: write NAME>=VERSION"
            )
        name, version = match["name"], match["version"]
        if bounds.setdefault(name, version) != version:
            raise ValueError(f"pyproject.toml: {name} has two lower bounds: write the same twice")
    return sorted(f"{name}=={version}" for name, version in bounds.items())


if __name__ == "__main__":
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8")
    print("\n".join(lowest_versions(tomllib.loads(text)["project"])))
