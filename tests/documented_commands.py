"""The commands that README, docs, docstrings and makefiles show."""

import json
import re
import shlex
import subprocess
from typing import NamedTuple

from paths import ROOT

DOCS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")])
PAGES = ["README.md", "scripts/README.md", *(f"docs/{path.name}" for path in DOCS)]
SCRIPT = re.compile(r"(?:^|/)((?:scripts/|world/)?\w+\.py)$")


class Command(NamedTuple):
    """A command that a page shows: its script, a path in the project, and the words after it."""

    page: str
    script: str
    words: list[str]


def commands_of(page: str, text: str) -> list[Command]:
    """The commands in a text that start a script of the project, with ``python`` or ``torchrun``."""
    found = []
    for line in re.sub(r" *\\\\?\n\s*", " ", text).splitlines():
        line = re.sub(r"^\s*(\$\(PY\)|\S*python3?) ", "python ", line.strip().strip("`"))
        line = re.sub(r"^srun .*?(\S*python|\S*torchrun) ", r"\1 ", line)
        if not re.match(r"(python|\S*torchrun) ", line) or "..." in line or "…" in line:
            continue
        words = shlex.split(re.split(r"\s+# |\s{2,}(?=[a-z])|;", line)[0], posix=True)
        place = next((number for number, word in enumerate(words) if SCRIPT.search(word)), None)
        if place is not None and (ROOT / SCRIPT.search(words[place])[1]).is_file():
            found.append(Command(page, SCRIPT.search(words[place])[1], words[place + 1 :]))
    return found


def indented(text: str) -> str:
    """The code of a Markdown page: its indented lines, and those between fences."""
    fenced = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    return "\n".join(line for line in text.splitlines() if line.startswith("    ")) + "\n" + fenced


def markdown(page: str) -> str:
    """The text of a page; of a notebook, that of its Markdown cells."""
    text = (ROOT / page).read_text()
    if not page.endswith(".ipynb"):
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def page_commands() -> list[Command]:
    """The commands of all pages."""
    return [command for page in PAGES for command in commands_of(page, indented(markdown(page)))]


def docstring_commands() -> list[Command]:
    """The commands in the docstrings of all scripts."""
    scripts = [*ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py"), *(ROOT / "world").glob("*.py")]
    texts = {str(path.relative_to(ROOT)): re.match(r'\s*"""(.*?)"""', path.read_text(), re.S) for path in scripts}
    return [command for page, text in sorted(texts.items()) if text for command in commands_of(page, text[1])]


def make_commands(target: str, *variables: str) -> list[Command]:
    """The commands that ``make target`` would run."""
    words = ["make", "--dry-run", "--always-make", target, *variables]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return commands_of(f"make {target}", printed.replace(".venv/bin/python", "python"))
