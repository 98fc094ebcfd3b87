"""The work of generation: identities in, finished identities out. No files, no flags, no progress bars."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch

from models.attrop import Row
from models.errors import UserError
from models.masking import TokenMask
from models.pixels import to_images, to_pixels
from models.transfer import Download, upload
from utils.dataset.image_record import AttrOPVerdict, ImageRecord, rounded
from utils.generation.batch_rows import measured_rows
from utils.generation.gate import Gate, Waiting
from utils.generation.image_measures import ImageMeasures
from utils.generation.recipe import Identity, Recipe
from utils.generation.streams import identity_stream, image_sigmas, image_stream, perturb


@dataclass
class GeneratedImage:
    """``pixels`` (112, 112, 3) uint8 RGB, None when no try passed the gate; ``record``: its manifest line."""

    pixels: np.ndarray | None
    record: ImageRecord


@dataclass
class Drawn:
    """One image on its way: a vector, what its mask is drawn from, and what is known of it so far.

    ``clean``: the vector before the noise, (512,); ``tries``: what was measured of the images that did not pass.
    """

    identity: Identity
    index: int
    clean: np.ndarray
    sigma: float
    verdict: AttrOPVerdict | None = None
    tries: tuple = ()
    stream: np.random.Generator = field(init=False)
    vector: np.ndarray = field(init=False)

    def draw(self, seed):
        """Take this try's random stream: noise on the vector now, mask draws later."""
        self.stream = image_stream(seed, self.identity.number, self.index, len(self.tries))
        self.vector = perturb(self.clean, self.sigma, self.stream)
        return self

    def record(self, measured, verdict=None):
        """What is known of the image, now that it is decoded."""
        return ImageRecord(
            self.identity.number, self.identity.name, self.index, self.sigma, self.identity.source, rounded(measured),
            verdict or self.verdict,
        )  # fmt: skip


def generate(
    generator, identities: Iterable[Identity], recipe: Recipe, batch_size: int, attrop=None,
    attrop_on: str = "identity", measures: ImageMeasures | None = None, gate: Gate | None = None,
) -> Iterator[tuple[Identity, list[GeneratedImage]]]:  # fmt: skip
    """Iterate over (Identity, list of GeneratedImages), in the order in which identities are finished.

    ``identities``: any iterable of Identity, read as work goes on. ``attrop``: None, or an AttrOP that
    works on each identity's vector before the noise (``attrop_on="identity"``, paper section 3.4) or on
    every noisy vector (``"image"``, pose mode: the image written is then the one AttrOP checked).
    ``measures``: what is measured of every image, batched with decoding; ``gate``: an image that fails is drawn again
    with a fresh stream, and left out when no try passes. Raises ValueError when the gate asks for what nobody measures,
    UserError when an image is not finite.
    """
    on_images = attrop is not None and attrop_on == "image"
    if gate is not None and not gate.minimums.keys() <= set(measures.names if measures else ()):
        raise ValueError(f"the gate asks for {', '.join(gate.minimums)}, which are not all measured")
    lifts = attrop is not None and not on_images
    lifted = lift(attrop, identities, recipe) if lifts else ((i, i.vector, None) for i in identities)
    waiting = Waiting(draw_images(lifted, recipe))
    if on_images:
        images = attrop_images(attrop, waiting, recipe, measures)
    else:
        images = decode(generator, waiting, recipe, batch_size, measures)
    yield from assemble(images if gate is None else passing(images, waiting, gate, recipe.seed), recipe.example)


def lift(attrop, identities, recipe):
    """AttrOP on the identity vectors: yields (identity, lifted vector, AttrOPVerdict)."""

    def rows():
        for identity in identities:
            stream = identity_stream(recipe.seed, identity.number)
            yield Row(identity, identity.vector, identity.vector, lambda stream=stream: recipe.masks.draw(stream))

    for result in attrop.run(rows()):
        yield result.key, result.vector, verdict_of(result, "check image", values_of(result))


def draw_images(lifted, recipe):
    """(identity, vector, verdict) -> the noisy vectors of the images the identity lacks, as Drawn.

    The verdict on the identity vector goes with the first image alone.
    """
    for identity, vector, verdict in lifted:
        sigmas = image_sigmas(recipe.seed, identity.number, recipe.example, recipe.sigmas)
        for index in range(identity.first_image, recipe.example):
            yield Drawn(identity, index, vector, sigmas[index], None if index else verdict).draw(recipe.seed)


def attrop_images(attrop, waiting, recipe, measures):
    """AttrOP on every noisy vector, its identity target is the vector without noise; yields (Drawn, pixels, record).

    On a GPU the results are measured in batches. Those that end last may bring images back to ``waiting``, for which
    AttrOP starts again.
    """

    def row(image):
        return Row(image, image.vector, image.identity.vector, lambda: recipe.masks.draw(image.stream))

    device = next(attrop.generator.parameters()).device
    size = 1 if measures is None else measured_rows(attrop.batch_size, device)
    ended = []
    while True:
        for result in attrop.run(map(row, waiting)):
            ended.append(result)
            if len(ended) == size:
                yield from measured_results(ended, measures, size, device)
                ended = []
        if not ended:
            return
        yield from measured_results(ended, measures, size, device)
        ended = []


def measured_results(results, measures, size, device):
    """AttrOP's results, ``size`` of them at most -> (Drawn, pixels, record), with what ``measures`` says of each."""
    for result in results:
        if result.image is None:
            raise not_finite(result.key)
    pixels = to_pixels(torch.stack([result.image for result in results]))  # (S, 112, 112, 3)
    values = {}
    if measures is not None:
        padded = pixels.new_zeros(size, *pixels.shape[1:])  # (size, 112, 112, 3)
        padded[: len(pixels)] = pixels
        identities = np.ones((size, results[0].vector.size), np.float32)
        identities[: len(results)] = [result.key.identity.vector for result in results]
        values = measures(to_images(upload(padded, device)), upload(torch.from_numpy(identities), device))
        values = dict(zip(values, Download(*values.values()).wait(), strict=True))
    for place, result in enumerate(results):
        measured = values_of(result) | {name: float(value[place]) for name, value in values.items()}
        yield result.key, pixels[place].numpy(), result.key.record(measured, verdict_of(result, "image"))


def values_of(result):
    """{name: value} that AttrOP measured on the image it returns."""
    return {"id_similarity": result.id_similarity, **result.values}


def verdict_of(result, measured_on, values=None):
    return AttrOPVerdict(
        measured_on, result.accepted, result.iterations, tuple(result.missed), result.reason, rounded(values or {})
    )


def passing(images, waiting, gate, seed):
    """(Drawn, pixels, record) -> the same, when it passes the gate or has no try left; else it is drawn again."""
    for image, pixels, record in images:
        failure, tries = gate.failures(record.measured), image.tries
        if failure:
            tries = (*tries, record.measured | {"reason": failure})
            if len(tries) < gate.max_tries:
                waiting.again.append(replace(image, tries=tries).draw(seed))
                continue
        measured = {} if failure else record.measured  # no image, nothing measured of it; the tries tell
        yield image, None if failure else pixels, replace(record, measured=measured, passed=not failure, tries=tries)


def decode(generator, drawn, recipe, batch_size, measures):
    """Decode in batches padded to ``batch_size``, reading one while the next runs; yields (Drawn, pixels, record)."""
    in_flight = None
    while (batch := list(islice(drawn, batch_size))) or in_flight:
        launched = launch(generator, batch, recipe.masks, batch_size, measures) if batch else None
        if in_flight:
            yield from collect(*in_flight)
        in_flight = (batch, *launched) if batch else None


@torch.inference_mode()
def launch(generator, batch, masks, batch_size, measures):
    """Start decoding: a Download of pixels (B, 112, 112, 3) uint8, whether each is finite (B,), and what is measured.

    With the names of what is measured, (B,) each.
    """
    device = next(generator.parameters()).device
    vectors = np.ones((batch_size, batch[0].vector.size), np.float32)
    identities = np.ones_like(vectors)
    noise, rates = np.zeros((batch_size, 49)), np.ones(batch_size)
    for place, image in enumerate(batch):
        vectors[place], identities[place] = image.vector, image.identity.vector
        noise[place], rates[place] = masks.draw(image.stream)
    mask = TokenMask.from_noise(torch.from_numpy(noise), masks.minimum, torch.from_numpy(rates)).to(device)
    images = generator(upload(torch.from_numpy(vectors), device), mask).images
    finite, pixels = images.flatten(1).isfinite().all(1), to_pixels(images)  # (B,), (B, 112, 112, 3)
    values = {}
    if measures is not None:
        values = measures(to_images(pixels), upload(torch.from_numpy(identities), device))
    return Download(pixels, finite, *values.values()), list(values)


def collect(batch, download, names):
    """Wait for what was launched; yields (Drawn, pixels, record)."""
    pixels, finite, *values = (tensor.numpy() for tensor in download.wait())
    for place, image in enumerate(batch):  # what follows is padding
        if not finite[place]:
            raise not_finite(image)
        measured = {name: float(value[place]) for name, value in zip(names, values, strict=True)}
        yield image, pixels[place], image.record(measured)


def not_finite(image):
    return UserError(
        f"image {image.index} of identity {image.identity.name} is not finite (NaN or infinite); nothing of it was "
        "written. Try --precision fp32, or check the weights and this identity's vector."
    )


def assemble(images, example):
    """(Drawn, pixels, record) in any order -> (Identity, GeneratedImages in order), an identity when it is complete."""
    unfinished = defaultdict(dict)
    for drawn, pixels, record in images:
        identity, done = drawn.identity, unfinished[drawn.identity.number]
        done[drawn.index] = GeneratedImage(pixels, record)
        if len(done) == example - identity.first_image:
            yield identity, [image for _, image in sorted(unfinished.pop(identity.number).items())]
