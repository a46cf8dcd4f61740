import tomllib

import pytest

from faults.lowest import lowest_versions
from tests.helpers.paths import ROOT


def test_every_dependency_of_the_project_has_a_lowest_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = dict(line.split("==") for line in lowest_versions(project))
    assert {"torch", "numpy", "optuna", "mypy", "mkdocstrings"} <= set(versions)
    assert "softfeat" not in versions


def test_a_dependency_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="numpy has no lower bound"):
        lowest_versions({"name": "a", "dependencies": ["numpy"]})
    extras = {"x": ["numpy>=3"]}
    project = {"name": "a", "dependencies": ["numpy>=2"], "optional-dependencies": extras}
    with pytest.raises(ValueError, match="numpy has two lower bounds"):
        lowest_versions(project)
