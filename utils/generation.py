"""The work of generation: identities in, finished identities out. No files, no flags, no progress bars."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from models.attrop import Row
from models.vec2face import TokenMask
from utils.errors import UserError
from utils.gate import Waiting
from utils.sampling import MaskRatios, identity_stream, image_sigmas, image_stream, perturb


class Identity(NamedTuple):
    """One person to draw. ``number`` seeds the random streams, ``name`` is the folder, ``vector`` is (512,) float32.

    ``source``: the photo or the folder of photos that the vector is of, where there is one.
    """

    number: int
    name: str
    vector: np.ndarray
    source: str | None = None


@dataclass
class GeneratedImage:
    """``pixels`` (112, 112, 3) uint8 RGB, None when no try passed the gate; ``record``: what the manifest says."""

    pixels: np.ndarray | None
    record: dict


@dataclass(frozen=True)
class Recipe:
    """How many images an identity gets, and how they vary. ``sigmas``: one block of noise levels, see image_sigmas."""

    example: int
    sigmas: tuple
    seed: int = 0
    masks: MaskRatios = field(default_factory=MaskRatios)


@dataclass
class Drawn:
    """One image on its way: a vector, what its mask is drawn from, and what is known of it so far.

    ``clean``: the vector before the noise, (512,); ``tries``: what was measured of the images that did not pass.
    """

    identity: Identity
    index: int
    clean: np.ndarray
    sigma: float
    record: dict
    tries: tuple = ()
    stream: np.random.Generator = field(init=False)
    vector: np.ndarray = field(init=False)

    def draw(self, seed):
        """Take this try's random stream: noise on the vector now, mask draws later."""
        self.stream = image_stream(seed, self.identity.number, self.index, len(self.tries))
        self.vector = perturb(self.clean, self.sigma, self.stream)
        return self


def generate(generator, identities, recipe, batch_size, attrop=None, attrop_on="identity", gate=None):
    """Iterate over (Identity, list of GeneratedImages), in the order in which identities are finished.

    ``identities``: any iterable of Identity, read as work goes on. ``attrop``: None, or an AttrOP that
    works on each identity's vector before the noise (``attrop_on="identity"``, paper section 3.4) or on
    every noisy vector (``"image"``, pose mode: the image written is then the one AttrOP checked).
    ``gate``: None, or a Gate: an image that fails is drawn again with a fresh stream, and left out when no try passes.
    Raises UserError when an image is not finite.
    """
    on_images = attrop is not None and attrop_on == "image"
    lifts = attrop is not None and not on_images
    lifted = lift(attrop, identities, recipe) if lifts else ((i, i.vector, {}) for i in identities)
    waiting = Waiting(draw_images(lifted, recipe))
    if on_images:
        images = attrop_images(attrop, waiting, recipe, gate)
    else:
        images = decode(generator, waiting, recipe, batch_size, gate)
    yield from assemble(images if gate is None else passing(images, waiting, gate, recipe.seed), recipe.example)


def lift(attrop, identities, recipe):
    """AttrOP on the identity vectors: yields (identity, lifted vector, record)."""

    def rows():
        for identity in identities:
            stream = identity_stream(recipe.seed, identity.number)
            yield Row(identity, identity.vector, identity.vector, lambda stream=stream: recipe.masks.draw(stream))

    for result in attrop.run(rows()):
        yield result.key, result.vector, attrop_record(result)


def draw_images(lifted, recipe):
    """(identity, vector, record) -> the identity's ``recipe.example`` noisy vectors, as Drawn."""
    for identity, vector, record in lifted:
        sigmas = image_sigmas(recipe.seed, identity.number, recipe.example, recipe.sigmas)
        for index, sigma in enumerate(sigmas):
            yield Drawn(identity, index, vector, sigma, {"sigma": sigma, **record}).draw(recipe.seed)


def attrop_images(attrop, drawn, recipe, gate):
    """AttrOP on every noisy vector; its identity target is the vector without noise."""

    def row(image):
        return Row(image, image.vector, image.identity.vector, lambda: recipe.masks.draw(image.stream))

    for result in attrop.run(map(row, drawn)):
        if result.image is None:
            raise not_finite(result.key)
        record = attrop_record(result)
        if gate is not None:
            device = next(attrop.generator.parameters()).device
            identity = torch.from_numpy(result.key.identity.vector)[None].to(device)  # (1, 512)
            with torch.inference_mode():
                values = gate.measure(result.image[None].to(device), identity)
            record |= {name: round(float(value), 4) for name, value in values.items()}
        yield result.key, to_pixels(result.image[None])[0].numpy(), record


def passing(images, waiting, gate, seed):
    """(Drawn, pixels, record) -> the same, when it passes the gate or has no try left; else it is drawn again."""
    for image, pixels, record in images:
        failure = gate.failures(record)
        tries = (*image.tries, record | {"reason": failure}) if failure else image.tries
        if failure and len(tries) < gate.max_tries:
            waiting.again.append(replace(image, tries=tries).draw(seed))
            continue
        record = record | {"passed": not failure} | ({"tries": list(tries)} if tries else {})
        yield image, None if failure else pixels, record


def attrop_record(result):
    record = {"accepted": result.accepted, "iterations": result.iterations, "reason": result.reason}
    record["id_similarity"] = round(result.id_similarity, 4)
    return record | {name: round(value, 3) for name, value in result.values.items()}


def decode(generator, drawn, recipe, batch_size, gate):
    """Decode in batches padded to ``batch_size``, reading one while the next runs; yields (Drawn, pixels, record)."""
    in_flight = None
    while (batch := list(islice(drawn, batch_size))) or in_flight:
        launched = launch(generator, batch, recipe.masks, batch_size, gate) if batch else None
        if in_flight:
            yield from collect(*in_flight)
        in_flight = (batch, launched) if batch else None


@torch.inference_mode()
def launch(generator, batch, masks, batch_size, gate):
    """Start decoding: pixels (B, 112, 112, 3) uint8, whether each is finite (B,), what the gate measures, the event."""
    device = next(generator.parameters()).device
    vectors = np.ones((batch_size, batch[0].vector.size), np.float32)
    identities = np.ones_like(vectors)
    noise, rates = np.zeros((batch_size, 49)), np.ones(batch_size)
    for place, image in enumerate(batch):
        vectors[place], identities[place] = image.vector, image.identity.vector
        noise[place], rates[place] = masks.draw(image.stream)
    mask = TokenMask.from_noise(torch.from_numpy(noise), masks.minimum, torch.from_numpy(rates)).to(device)
    images = generator(torch.from_numpy(vectors).to(device), mask).images
    finite = images.flatten(1).isfinite().all(1)  # (B,)
    values = {}
    if gate is not None:
        values = gate.measure(images.clip(-1, 1), torch.from_numpy(identities).to(device))
        values = {name: value.float().to("cpu", non_blocking=True) for name, value in values.items()}
    pixels, finite = (x.to("cpu", non_blocking=True) for x in (to_pixels(images), finite))
    event = torch.cuda.Event() if device.type == "cuda" else None
    if event:
        event.record()
    return pixels, finite, values, event


def collect(batch, launched):
    pixels, finite, values, event = launched
    if event:
        event.synchronize()
    for place, image in enumerate(batch):  # what follows is padding
        if not finite[place]:
            raise not_finite(image)
        record = {name: round(float(value[place]), 4) for name, value in values.items()}
        yield image, pixels[place].numpy(), record


def to_pixels(images):
    """(N, 3, 112, 112) in [-1, 1] -> (N, 112, 112, 3) uint8."""
    return ((images.clip(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def not_finite(image):
    return UserError(
        f"image {image.index} of identity {image.identity.name} is not finite (NaN or infinite); nothing of it was "
        "written. Try --precision fp32, or check the weights and this identity's vector."
    )


def assemble(images, example):
    """(Drawn, pixels, record) in any order -> (Identity, GeneratedImages in order), an identity when it is complete."""
    unfinished = defaultdict(dict)
    for drawn, pixels, record in images:
        one = unfinished[drawn.identity.number]
        one[drawn.index] = GeneratedImage(pixels, drawn.record | record)
        if len(one) == example:
            yield drawn.identity, [image for _, image in sorted(unfinished.pop(drawn.identity.number).items())]
