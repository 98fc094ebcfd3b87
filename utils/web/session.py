"""The models, the identity vectors and the machine behind the page; nothing here knows of a browser."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from models.attribute_estimator import Attribute
from models.attrop import AttrOP, pitch_target, quality_target, yaw_target
from models.errors import UserError
from models.masking import MaskRates
from utils.cli.attribute_flags import attribute_targets
from utils.data.alignment import FaceAligner
from utils.generation.attrop_progress import AttrOPProgress
from utils.generation.batch_rows import attrop_rows, decoded_rows
from utils.generation.identity_sampling import PCASampler, mixtures, sample_apart
from utils.generation.image_measures import ImageMeasures
from utils.generation.make_dataset import Machine
from utils.generation.networks import Networks, default_quality, load_estimators
from utils.generation.pipeline import generate
from utils.generation.recipe import Identity, Recipe
from utils.generation.vector_source import VectorSource
from utils.runtime.precision import PRECISIONS
from utils.web.order import Drawn, Order, Person, Photo, Sampled
from utils.web.worker import Worker

MOST_SIMILAR = 0.3  # the default of scripts/sample_identities.py
FIRST = 12  # people to choose from
ROUNDED = 1  # decimal place of the quality that the page suggests


@dataclass(frozen=True)
class Session:
    """What all visitors share.

    ``networks``: the generator and all estimators; ``source``: the file of identity vectors; ``measured_in``: the
    name of the number format in which images are measured; ``run_flags``: flags of the computation that the user gave,
    such as --device cpu, for the command line of the images.
    """

    networks: Networks
    source: VectorSource
    machine: Machine
    measured_in: str = "fp32"
    run_flags: tuple[str, ...] = ()
    worker: Worker = field(default_factory=Worker)

    @property
    def people(self) -> int:
        """The number of identity vectors in the file."""
        return len(self.source.vectors)

    @cached_property
    def exact(self) -> dict[str, Any]:
        """The estimators in the number format of measurements, {role: network}."""
        dtype = PRECISIONS[self.measured_in]
        if dtype == self.machine.precision.dtype:
            return self.networks.by_role
        return load_estimators(self.networks.files, self.machine.device, dtype)

    def measures(self, order: Order) -> ImageMeasures:
        """Measures id similarity, quality, yaw and pitch, and the attributes that an order asks for."""
        names = tuple(wanted.name for wanted in order.attributes)
        return ImageMeasures(
            self.exact["id"], self.exact["quality"], self.exact["pose"], attribute_model=self.exact.get("attribute"),
            attributes=names,
        )  # fmt: skip

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes that AttrOP can change: none without an estimator."""
        return self.networks.attributes.attributes if self.networks.attributes is not None else ()

    @cached_property
    def aligner(self) -> FaceAligner:
        """The face detector."""
        return FaceAligner()

    @cached_property
    def sampler(self) -> PCASampler:
        """The distribution of the file's vectors. Raises UserError when it holds a single one."""
        if self.people < 2:
            raise UserError(f"{self.source.origin}: one person only; how people differ takes at least two.")
        return PCASampler(np.array(self.source.vectors))

    @property
    def quality(self) -> float:
        """The quality that AttrOP aims at by default, without a head pose."""
        return round(default_quality(self.networks.quality), ROUNDED)

    def row(self, number: int) -> np.ndarray:
        """The vector (512,) float32 of a row of the file. Raises UserError when there is no such row."""
        if isinstance(number, bool) or not isinstance(number, (int, float)) or number not in range(self.people):
            raise UserError(f"Person: a whole number from 0 to {self.people - 1}, not {number!r:.40}.")
        return np.array(self.source.vectors[int(number)], np.float32)

    def vector(self, person: Person) -> np.ndarray:
        """The identity vector (512,) float32 of a person. Raises UserError when there is no such person."""
        if isinstance(person, Sampled):
            return self.row(person.row)
        if isinstance(person, Drawn):
            return self.draw(person.seed)[0]
        if isinstance(person, Photo):
            return person.vector
        first, second = self.vector(person.first), self.row(person.second)
        return mixtures(first[None], second[None], np.array([[1 - person.share]]))[0]

    def draw(self, seed: int) -> np.ndarray:
        """Two vectors (2, 512) float32, as scripts/sample_identities.py draws them: it needs at least two."""
        blocks = sample_apart(self.sampler, 2, MOST_SIMILAR, seed, device=self.machine.device)
        return np.concatenate([vectors for _, vectors in blocks])

    def identity(self, person: Person) -> Identity:
        """The Identity of a person, with the number that its row has in the file of vectors."""
        vector = self.vector(person)
        number = int(person.row) if isinstance(person, Sampled) else 0
        return Identity(number, f"{number:06d}", vector)

    def vector_file(self, person: Person, folder: Path) -> Path:
        """The file that the commands for a person write, in ``folder``; for one of the file of all vectors, that file.

        The vector is in the row that has the identity's number.
        """
        if isinstance(person, Sampled):
            return Path(self.source.origin)
        path = folder / "vectors.npy"
        np.save(path, self.draw(person.seed) if isinstance(person, Drawn) else self.vector(person)[None])  # (1, 512)
        return path

    def recipe(self, order: Order) -> Recipe:
        """The Recipe of an order."""
        return Recipe(order.count, (order.sigma,), order.seed, MaskRates())

    def wanted_quality(self, order: Order) -> float:
        """The quality that AttrOP aims at: that of the order, or the default for its head pose."""
        if order.quality is not None:
            return order.quality
        return default_quality(self.networks.quality, order.wanted_yaw if order.mode == "pose" else None)

    def networks_for(self, order: Order) -> Networks:
        """The networks that the generation script would load for an order: those that it needs."""
        unused = ["pose"] if order.mode == "identity" else []
        unused += [] if order.attributes else ["attribute"]
        by_role = {role: network for role, network in self.networks.by_role.items() if role not in unused}
        files = replace(self.networks.files, **dict.fromkeys(unused))
        return replace(self.networks, files=files, by_role=by_role)

    def attrop(self, order: Order, progress: AttrOPProgress, **options: Any) -> AttrOP | None:
        """The AttrOP of an order, None if it has no target. ``progress`` and ``options``: of AttrOP.

        Raises UserError for an attribute that the estimator does not know, or a value that it has not seen.
        """
        if not order.uses_attrop:
            return None
        networks = self.networks
        targets = [quality_target(networks.quality, self.wanted_quality(order))]
        if order.mode == "pose":
            targets.append(yaw_target(networks.pose, order.wanted_yaw, signed=True))
        if order.pitch is not None:
            targets.append(pitch_target(networks.pose, order.pitch))
        if order.attributes and networks.attributes is None:
            raise UserError("Attributes: these models have no estimator of attributes.")
        targets += attribute_targets(order.attributes, networks.attributes)
        rows = attrop_rows(self.machine.batch_size, self.machine.device)
        return AttrOP(
            networks.generator, networks.encoder, targets, batch_size=rows, drop_ratio=MaskRates().minimum,
            max_iters=order.max_iters, on_iteration=progress, **options,
        )  # fmt: skip

    @cached_property
    def first_faces(self) -> list[np.ndarray]:
        """Images of the first people of the file, for visitors to choose from."""
        return self.faces(range(min(FIRST, self.people)))

    def faces(self, rows: range) -> list[np.ndarray]:
        """Images of the people of some rows, without noise: (112, 112, 3) uint8 RGB each."""
        people = [self.identity(Sampled(row)) for row in rows]
        size = decoded_rows(self.machine.batch_size, self.machine.device)
        made = generate(self.networks.generator, people, Recipe(1, (0.0,)), size)
        return [images[0].pixels for _, images in made]
