"""The rows of the table that scripts/gpu_check.py writes."""

from dataclasses import asdict, dataclass, field
from typing import Any

PASSED, FAILED, MEASURED, SKIPPED = "passed", "FAILED", "measured", "skipped"


@dataclass(frozen=True)
class Row:
    """One line: ``item`` says what was checked, ``figure`` is the result, ``limit`` the requirement.

    ``result``: PASSED or FAILED where there is a limit, MEASURED for information, SKIPPED with the reason as figure.
    ``values``: the figures as numbers, for the JSON file.
    """

    item: str
    result: str
    figure: str
    limit: str = ""
    values: dict = field(default_factory=dict)


def judged(item: str, passed: bool, figure: str, limit: str, **values: Any) -> Row:
    """A row that passes or fails."""
    return Row(item, PASSED if passed else FAILED, figure, limit, values)


def measured(item: str, figure: str, **values: Any) -> Row:
    """A row for information."""
    return Row(item, MEASURED, figure, values=values)


def skipped(item: str, reason: str) -> Row:
    """A row of something that cannot be checked here."""
    return Row(item, SKIPPED, reason)


def markdown(machine: dict[str, str], results: list[tuple[str, Row]]) -> str:
    """The machine as a list and the (name of the check, row) pairs as a Markdown table."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "| check | result | figure | limit |", "|---|---|---|---|"]
    for name, row in results:
        cells = (f"{name}: {row.item}" if row.item else name, row.result, row.figure, row.limit)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def plain(results: list[tuple[str, Row]]) -> list[dict]:
    """The same pairs as values for JSON."""
    return [{"check": name} | asdict(row) for name, row in results]
