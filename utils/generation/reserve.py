"""Reserve identities, which replace those whose images do not all pass the gate.

A reserve identity has a number of its own after those of the file of identities, and its images depend on that number
as any other's. The first of the reserve that fill their images stand in for as many identities as have failed. So the
dataset does not depend on slices, processes or interruptions, and who stands in for whom is read from the manifest: the
first identity that failed is replaced by the first of the reserve that did not.
"""

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.errors import UserError
from utils.dataset.image_record import INCOMPLETE
from utils.dataset.layout import about_folder, manifest_path
from utils.dataset.manifest import BlockReader, IdentityLines, Key, Line, index_manifest
from utils.runtime.durable import atomic_write

REPLACED = "replaced.jsonl"


class ReserveState(NamedTuple):
    """Who has images, by the merged manifest of a dataset; in order of their numbers.

    ``failed``: {key: its lines} of identities of the file without images; ``filled`` and ``failed_reserve``: the same
    of the reserve, with and without images.
    """

    failed: dict[Key, IdentityLines]
    filled: dict[Key, IdentityLines]
    failed_reserve: dict[Key, IdentityLines]

    @property
    def missing(self) -> int:
        """Number of identities that have not been replaced yet."""
        return max(0, len(self.failed) - len(self.filled))

    def next_rows(self, rows: range) -> list[int]:
        """The next of the ``rows`` of the reserve to try, as many as are missing and left."""
        tried = len(self.filled) + len(self.failed_reserve)
        return list(rows[tried : tried + self.missing])


def reserve_state(root: Path | str, first_number: int) -> ReserveState:
    """The state of a dataset. ``first_number``: the number of the first reserve identity."""
    state = ReserveState({}, {}, {})
    for key, block in sorted(index_manifest(manifest_path(root)).items()):
        if key[0] < first_number and not block.images:
            state.failed[key] = block
        elif key[0] >= first_number:
            (state.filled if block.images else state.failed_reserve)[key] = block
    return state


def write_replaced(root: Path | str, state: ReserveState, keep: int) -> Path:
    """Write ``NAME.about/replaced.jsonl``, a line for every identity that could not fill ``keep`` images; its path.

    A line says how many images passed, which measures the others missed how often, and who replaces the identity (null
    if the reserve was used up); those of the reserve that could not fill their images either follow.
    """
    stand_ins = [name for _, name in state.filled]
    stand_ins += [None] * (len(state.failed) - len(stand_ins))
    path = about_folder(root) / REPLACED
    with closing(BlockReader()) as reader:
        lines = [
            failure(key, reader.lines(block), keep) | {"replaced_by": stand_in}
            for (key, block), stand_in in zip(state.failed.items(), stand_ins, strict=False)
        ]
        lines += [
            failure(key, reader.lines(block), keep) | {"from_reserve": True}
            for key, block in state.failed_reserve.items()
        ]
    atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path


def failure(key: Key, lines: list[Line], keep: int) -> dict[str, Any]:
    """Who could not fill its images, and why."""
    reasons = [line["tries"][-1]["reason"] for line in lines]
    missed = [reason for reason in reasons if not reason.startswith(INCOMPLETE)]
    why = Counter(measure for reason in missed for measure in {part.split()[0] for part in reason.split(", ")})
    counts = {"passed": len(lines) - len(missed), "wanted": keep, "missed": dict(sorted(why.items()))}
    return {"identity": key[0], "name": key[1]} | counts


def check_apart(reserve: np.ndarray, path: Path | str, vectors: np.ndarray, origin: str) -> None:
    """Raise UserError when a vector of the ``reserve`` (R, D) is one of ``vectors`` (K, D), or stands there twice."""
    rows = {}
    for row, vector in enumerate(reserve):
        first = rows.setdefault(np.asarray(vector, np.float32).tobytes(), row)
        if first != row:
            raise UserError(f"--reserve {path}: rows {first} and {row} are the same identity.")
    for row, vector in enumerate(vectors if rows else ()):
        if (other := rows.get(np.asarray(vector, np.float32).tobytes())) is not None:
            raise UserError(
                f"--reserve {path}: row {other} is also row {row} of {origin}; a reserve holds other people, for "
                "example the last rows of a larger file, cut off from it."
            )
