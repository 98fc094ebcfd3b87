"""The command line that makes the images of an order."""

import re
import shlex
from pathlib import Path

from utils.web.order import Drawn, Order, Person, Photo, Sampled
from utils.web.session import Session

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 88


def command_of(session: Session, order: Order) -> str:
    """Commands for a shell in the project's folder, one a line, that make the same images.

    Those before the last write the file of the person's vector.
    """
    lines = [*vector_commands(session, order.person), generation_command(session, order)]
    return "\n".join(wrapped(line) for line in lines)


def vector_commands(session: Session, person: Person) -> list[list[str]]:
    """The commands that write the file of a person's vector, none for a person of the file of vectors."""
    vectors = shown_path(session.source.origin)
    if isinstance(person, Sampled):
        return []
    if isinstance(person, Drawn):
        words = ["--features", vectors, "--count", "2", "--seed", str(person.seed), "--output", file_of(person)]
        return [["scripts/sample_identities.py", *words]]
    if isinstance(person, Photo):
        words = ["--data", person.file, *(["--align"] if person.align else []), "--one_file"]
        words += ["--id_weights", shown_path(session.networks.files.id), "--output", str(Path(file_of(person)).parent)]
        return [["scripts/extract_features.py", *words, *session.run_flags]]
    first = person.first
    words = ["--first", file_of(first, vectors), str(first.row if isinstance(first, Sampled) else 0)]
    words += ["--second", vectors, str(person.second), "--share", f"{person.share:g}", "--output", file_of(person)]
    return [*vector_commands(session, first), ["scripts/mix_vectors.py", *words]]


def file_of(person: Person, vectors: str = "") -> str:
    """The file that holds a person's vector once ``vector_commands`` have run. ``vectors``: the file of all vectors."""
    if isinstance(person, Sampled):
        return vectors
    if isinstance(person, Photo):
        return f"{person.name}/features.npy"
    return f"{person.name}.npy"


def generation_command(session: Session, order: Order) -> list[str]:
    """The command that makes the images from the file of the vector."""
    pose, files = order.mode == "pose", session.networks.files
    row = order.person.row if isinstance(order.person, Sampled) else 0
    words = ["pose_image_generation.py" if pose else "image_generation.py", "--name", order.name]
    words += ["--center_feature", file_of(order.person, shown_path(session.source.origin))]
    words += ["--start_end", f"{row}:{row + 1}", "--example", str(order.count)]
    words += ["--seed", str(order.seed), "--sigma", f"{order.sigma:g}"]
    if pose:
        words += ["--pose", f"{order.wanted_yaw:g}", "--signed_pose"]
        words += ["--pitch", f"{order.pitch:g}"] if order.pitch is not None else []
    if order.quality is not None:
        words += ["--image_quality", f"{order.quality:g}"]
    for wanted in order.attributes:
        words += ["--attribute", f"{wanted.name}={wanted.value:g}"]
    words += ["--max_iters", str(order.max_iters)] if order.uses_attrop else ["--skip_attrop"]
    roles = {"model": files.generator, "id": files.id, "quality": files.quality} | (
        {"pose": files.pose} if pose else {}
    )
    for role, path in roles.items():
        words += [f"--{role}_weights", shown_path(path)]
    return [*words, "--measure", *session.run_flags]


def shown_path(path: Path | str) -> str:
    """A path as it is called from the project's folder."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def wrapped(words: list[str]) -> str:
    """A command, continued over several lines where it is long; a flag and its values stay on one line."""
    parts = re.split(r" (?=--)", shlex.join(["python", *words]))
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 > WIDTH:
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)
