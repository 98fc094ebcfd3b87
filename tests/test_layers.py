"""The code lies in layers: imports point to the same layer or to a lower one, and never in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from paths import ROOT

PACKAGES = ("models", "utils", "scripts", "world")
LAYERS = (  # from the lowest to the highest; a file belongs to the longest name that it begins with
    ("models",),
    ("utils.runtime",),
    ("utils.data", "utils.dataset"),
    ("utils.generation", "utils.training", "utils.evaluation"),
    ("utils.cli", "utils.web"),
    ("",),  # the root scripts
    ("scripts", "world"),
)
LONGEST_FILE = 400


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
MODULES = {module_name(path): path for path in FILES}


def layer(module):
    numbered = [(number, name) for number, names in enumerate(LAYERS) for name in names]
    return max((len(name), number) for number, name in numbered if f"{module}.".startswith(f"{name}.") or not name)[1]


def imports(module, inside_functions=True):
    """The project's modules that a module imports; ``inside_functions``: also those imported later, by a call."""
    path, todo, names = MODULES[module], [], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    todo.append(ast.parse(path.read_text()))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names |= {
                f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source for alias in node.names
            }
        if inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            todo += ast.iter_child_nodes(node)
    return names & MODULES.keys()


def test_the_modules_of_the_project_their_imports_and_their_layers_are_found():
    assert {"vec2face", "models", "models.vec2face", "utils.cli.command", "world.renderer.head"} <= MODULES.keys()
    assert {"utils.dataset.layout", "utils.data.masks"} <= imports("utils.data.face_set")
    assert "utils.cli.command" in imports("vec2face")
    assert [layer(module) for module in ("models.vec2face", "utils.dataset.parts", "vec2face", "scripts")] == [
        0,
        2,
        5,
        6,
    ]


def test_the_models_import_nothing_of_the_rest_of_the_project():
    upwards = {(module, name) for module in MODULES if layer(module) == 0 for name in imports(module) if layer(name)}
    assert not upwards


def test_imports_point_to_the_same_layer_or_to_a_lower_one():
    upwards = {(module, name) for module in MODULES for name in imports(module) if layer(name) > layer(module)}
    assert not upwards


def test_no_import_circle():
    try:
        TopologicalSorter({module: imports(module, inside_functions=False) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"{' -> '.join(reversed(error.args[1]))}")


def test_no_file_has_more_than_400_lines():
    paths = [*FILES, *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_test_file_imports_another_one():
    """What they share lies in conftest and in the modules beside it."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not node.module.startswith(("test_", "conftest")), path
