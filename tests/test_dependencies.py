"""The floors of the dependencies leave out the versions that have known holes."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = Path(__file__).parent.parent
# The first version of each that is without the hole, and which that is.
MENDED = {
    "filelock": ("3.20.1", "a link in the place of a lock file had another file emptied (CVE-2025-68146)"),
    "lightning": ("2.6.6", "2.6.2 and 2.6.3 were malicious, and a checkpoint could run code"),
    "lxml": ("6.1", "iterparse opened external entities"),
    "pyarrow": ("14.0.1", "a file could run code (CVE-2023-47248)"),
    "torch": ("2.6", "torch.load could run code with weights_only=True (CVE-2025-32434)"),
}


@pytest.mark.parametrize("name", MENDED)
def test_no_version_with_a_known_hole_can_be_installed(name: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [specifier] = [wanted.specifier for wanted in map(Requirement, project["dependencies"]) if wanted.name == name]
    version, hole = MENDED[name]
    floors = [Version(part.version) for part in specifier if part.operator == ">="]
    assert floors, f"{name} has no floor"
    assert max(floors) >= Version(version), f"{name} before {version}: {hole}"


def test_what_the_tests_pass_with_is_within_the_floors() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    exact = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for wanted in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["sweep"]]):
        assert exact[canonicalize_name(wanted.name)] in wanted.specifier, wanted
