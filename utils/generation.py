"""The work of generation: identities in, finished identities out. No files, no flags, no progress bars."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from models.attrop import Row
from models.vec2face import TokenMask
from utils.errors import UserError
from utils.sampling import MaskRatios, identity_stream, image_sigmas, image_stream, perturb


class Identity(NamedTuple):
    """One person to draw. ``number`` seeds the random streams, ``name`` is the folder, ``vector`` is (512,) float32."""

    number: int
    name: str
    vector: np.ndarray


@dataclass
class GeneratedImage:
    """``pixels`` (112, 112, 3) uint8 RGB; ``record``: what the manifest says of it."""

    pixels: np.ndarray
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
    """One image on its way: a vector, what its mask is drawn from, and what is known of it so far."""

    identity: Identity
    index: int
    vector: np.ndarray
    stream: np.random.Generator
    record: dict


def generate(generator, identities, recipe, batch_size, attrop=None, attrop_on="identity"):
    """Iterate over (Identity, list of GeneratedImages), in the order in which identities are finished.

    ``identities``: any iterable of Identity, read as work goes on. ``attrop``: None, or an AttrOP that
    works on each identity's vector before the noise (``attrop_on="identity"``, paper section 3.4) or on
    every noisy vector (``"image"``, pose mode: the image written is then the one AttrOP checked).
    Raises UserError when an image is not finite.
    """
    if attrop is not None and attrop_on == "image":
        images = attrop_images(
            attrop, draw_images(((identity, identity.vector, {}) for identity in identities), recipe), recipe
        )
    else:
        lifted = ((i, i.vector, {}) for i in identities) if attrop is None else lift(attrop, identities, recipe)
        images = decode(generator, draw_images(lifted, recipe), recipe, batch_size)
    yield from assemble(images, recipe.example)


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
            stream = image_stream(recipe.seed, identity.number, index)
            yield Drawn(identity, index, perturb(vector, sigma, stream), stream, {"sigma": sigma, **record})


def attrop_images(attrop, drawn, recipe):
    """AttrOP on every noisy vector; its identity target is the vector without noise."""

    def rows():
        for image in drawn:
            yield Row(image, image.vector, image.identity.vector, lambda image=image: recipe.masks.draw(image.stream))

    for result in attrop.run(rows()):
        if result.image is None:
            raise not_finite(result.key)
        yield result.key, to_pixels(result.image[None])[0].numpy(), attrop_record(result)


def attrop_record(result):
    record = {"accepted": result.accepted, "iterations": result.iterations, "reason": result.reason}
    record["id_similarity"] = round(result.id_similarity, 4)
    return record | {name: round(value, 3) for name, value in result.values.items()}


def decode(generator, drawn, recipe, batch_size):
    """Decode in batches padded to ``batch_size``, reading one while the next runs; yields (Drawn, pixels, {})."""
    in_flight = None
    drawn = iter(drawn)
    while batch := list(islice(drawn, batch_size)):
        launched = launch(generator, batch, recipe.masks, batch_size)
        if in_flight:
            yield from collect(*in_flight)
        in_flight = batch, launched
    if in_flight:
        yield from collect(*in_flight)


@torch.inference_mode()
def launch(generator, batch, masks, batch_size):
    """Start decoding: pixels (B, 112, 112, 3) uint8, whether each is finite (B,), and the event they come with."""
    device = next(generator.parameters()).device
    vectors = np.ones((batch_size, batch[0].vector.size), np.float32)
    noise, rates = np.zeros((batch_size, 49)), np.ones(batch_size)
    for place, image in enumerate(batch):
        vectors[place] = image.vector
        noise[place], rates[place] = masks.draw(image.stream)
    mask = TokenMask.from_noise(torch.from_numpy(noise), masks.minimum, torch.from_numpy(rates)).to(device)
    images = generator(torch.from_numpy(vectors).to(device), mask).images
    finite = images.flatten(1).isfinite().all(1)  # (B,)
    pixels, finite = (x.to("cpu", non_blocking=True) for x in (to_pixels(images), finite))
    event = torch.cuda.Event() if device.type == "cuda" else None
    if event:
        event.record()
    return pixels, finite, event


def collect(batch, launched):
    pixels, finite, event = launched
    if event:
        event.synchronize()
    for image, one, ok in zip(batch, pixels.numpy(), finite.tolist(), strict=False):  # padding has no Drawn
        if not ok:
            raise not_finite(image)
        yield image, one, {}


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
