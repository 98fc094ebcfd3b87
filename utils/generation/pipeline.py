"""The generation procedure (paper section 3.3): identities in, finished identities out, without any files or flags.

identity vector --AttrOP--> vector --noise--> noisy vectors --generator--> images              (identity mode)
identity vector --noise--> noisy vectors --AttrOP, which decodes them--> images                    (pose mode)

With identity mixup the vector of another identity is mixed in before the noise, in identity mode after AttrOP.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch

from models.attrop import AttrOP, Result, Row
from models.errors import UserError
from models.masking import MaskRates
from models.pixels import to_images, to_pixels
from models.transfer import Download, upload
from utils.dataset.image_record import AttrOPVerdict, ImageRecord, rounded
from utils.generation.anchors import Start, with_anchors
from utils.generation.batch_rows import measured_rows
from utils.generation.cone_noise import cosine, perturb_in_cone
from utils.generation.decoding import decode_rows
from utils.generation.gate import Gate, RetryQueue
from utils.generation.identity_mixup import Mixture
from utils.generation.image_measures import ImageMeasures
from utils.generation.landmark_choice import Landmarks
from utils.generation.recipe import Identity, Recipe
from utils.generation.selection import Selection
from utils.generation.streams import identity_stream, image_sigmas, image_stream, perturb


@dataclass
class GeneratedImage:
    """``pixels`` (112, 112, 3) uint8 RGB, None when no attempt passed the gate; ``record``: its manifest line."""

    pixels: np.ndarray | None
    record: ImageRecord


@dataclass
class ImageJob:
    """One image to make.

    ``vector``: the identity's vector before the noise, (512,); ``sigma``: the noise level, None for noise in a cone;
    ``verdict``: AttrOP's verdict on that vector; ``tries``: the measurements of earlier attempts, none of which passed
    the gate; ``landmarks``: those that the image is made to, None without such control; ``mixture``: what is mixed
    into ``vector`` already, None without identity mixup. Once an attempt has been started, ``stream`` is its random
    stream and ``noisy`` (512,) the vector to decode.
    """

    identity: Identity
    index: int
    vector: np.ndarray
    sigma: float | None
    verdict: AttrOPVerdict | None = None
    tries: tuple[dict[str, Any], ...] = ()
    landmarks: Landmarks | None = None
    mixture: Mixture | None = None
    stream: np.random.Generator = field(init=False)
    noisy: np.ndarray = field(init=False)

    @property
    def wanted(self) -> np.ndarray:
        """The identity vector (512,) that the image should show: that of the identity, or the mixture."""
        return self.identity.vector if self.mixture is None else self.mixture.of(self.identity.vector)

    def start_attempt(self, recipe: Recipe) -> "ImageJob":
        """Start the random stream of this attempt. The noise is drawn from it now, the token mask when decoding."""
        self.stream = image_stream(recipe.seed, self.identity.number, self.index, len(self.tries))
        if recipe.lower_bound is None:
            self.noisy = perturb(self.vector, self.sigma, self.stream)
        else:
            bound = max(recipe.lower_bound, self.identity.lower_bound or 0)
            self.noisy = perturb_in_cone(self.vector, self.identity.vector, bound, self.stream)
        return self

    def record(
        self, measured: dict[str, float], decoded: np.ndarray, verdict: AttrOPVerdict | None = None
    ) -> ImageRecord:
        """The ImageRecord of the image of the vector ``decoded`` (512,).

        ``measured``: what was measured on the image; ``verdict``: AttrOP's on it, if any.
        """
        return ImageRecord(
            self.identity.number, self.identity.name, self.index, self.sigma, self.identity.source, rounded(measured),
            verdict or self.verdict, cosine=cosine(decoded, self.identity.vector) if self.sigma is None else None,
            landmarks=self.landmarks and self.landmarks.record, mixture=self.mixture and self.mixture.record,
        )  # fmt: skip


class FinishedImage(NamedTuple):
    """A finished image: its job, its pixels (112, 112, 3) uint8 RGB or None, and its record."""

    job: ImageJob
    pixels: np.ndarray | None
    record: ImageRecord


def generate(
    generator: torch.nn.Module, identities: Iterable[Identity], recipe: Recipe, batch_size: int,
    attrop: AttrOP | None = None, attrop_on: str = "identity", measures: ImageMeasures | None = None,
    gate: Gate | None = None, selection: Selection | None = None,
) -> Iterator[tuple[Identity, list[GeneratedImage]]]:  # fmt: skip
    """Iterate over (Identity, its GeneratedImages), in the order in which identities are finished.

    ``identities``: any iterable of Identity, read on demand. ``attrop``: None, or an AttrOP that works on each
    identity vector before the noise (``attrop_on="identity"``) or on every noisy vector (``"image"``: the image written
    is then the one that AttrOP checked). ``measures``: measurements taken of every image, batched with decoding;
    ``gate``: an image that fails is drawn again from a new random stream, and left out when no attempt passes;
    ``selection``: which of an identity's images are kept once all have been drawn. Raises ValueError when the gate or
    the selection needs a measure that is not taken, UserError when an image is not finite.
    """
    needed = [*(gate.names if gate else ()), *([selection.score] if selection and selection.score else ())]
    if not set(needed) <= set(measures.names if measures else ()):
        raise ValueError(f"the gate asks for {', '.join(needed)}, which are not all measured")
    if attrop is not None and attrop_on == "identity":
        starts = optimise_identities(attrop, identities, recipe)
    else:
        starts = ((identity, identity.vector, None) for identity in identities)
    if measures is not None and measures.gate_encoder is not None:
        starts = with_anchors(starts, generator, measures.gate_encoder, recipe, batch_size)
    queue = RetryQueue(image_jobs(starts, recipe))
    if attrop is not None and attrop_on == "image":
        images = optimise_images(attrop, queue, recipe, measures)
    else:
        images = decode(generator, queue, recipe.mask_rates, batch_size, measures)
    if gate is not None:
        images = retry_rejected(images, queue, gate, recipe)
    for identity, finished in assemble(images, recipe.example):
        yield identity, finished if selection is None else selection(finished)


def optimise_identities(attrop: AttrOP, identities: Iterable[Identity], recipe: Recipe) -> Iterator[Start]:
    """AttrOP on the identity vectors: yields (identity, vector (512,), verdict) as rows end."""
    for result in attrop.run(identity_rows(identities, recipe.seed, recipe.mask_rates)):
        yield result.key, result.vector, verdict_of(result, "check image", values_of(result))


def identity_rows(identities: Iterable[Identity], seed: int, mask_rates: MaskRates) -> Iterator[Row]:
    """AttrOP's rows for identity vectors: the key of a row is its Identity, its masks come from (seed, identity)."""
    for identity in identities:
        stream = identity_stream(seed, identity.number)
        yield Row(identity, identity.vector, identity.vector, lambda stream=stream: mask_rates.draw(stream))


def image_jobs(starts: Iterable[Start], recipe: Recipe) -> Iterator[ImageJob]:
    """(identity, vector (512,), verdict) -> jobs for the images that the identity still needs.

    Only the first image gets the verdict on the identity vector.
    """
    for identity, vector, verdict in starts:
        sigmas, landmarks = repeat(None), repeat(None)
        if recipe.lower_bound is None:
            sigmas = image_sigmas(recipe.seed, identity.number, recipe.example, recipe.sigmas)
        if recipe.landmarks is not None:
            landmarks = recipe.landmarks.sequence(recipe.seed, identity.number)
        for index, sigma, own in zip(range(recipe.example), sigmas, landmarks, strict=False):
            if index >= identity.first_image:
                mixture = recipe.mixup and recipe.mixup.draw(recipe.seed, identity.number, index)
                start = vector if mixture is None else mixture.of(vector)
                job = ImageJob(identity, index, start, sigma, None if index else verdict, (), own, mixture)
                yield job.start_attempt(recipe)


def optimise_images(
    attrop: AttrOP, queue: RetryQueue, recipe: Recipe, measures: ImageMeasures | None
) -> Iterator[FinishedImage]:
    """AttrOP on every noisy vector. Identity similarity is measured to the identity vector without noise.

    On a GPU the results are measured in batches. The consumer may put images of the last batch back into the ``queue``;
    AttrOP then starts again for these.
    """

    def next_row() -> Row | None:
        job = queue.take()
        if job is None:
            return None
        return Row(job, job.noisy, job.identity.vector, lambda: recipe.mask_rates.draw(job.stream))

    device = next(attrop.generator.parameters()).device
    size = 1 if measures is None else measured_rows(attrop.batch_size, device)
    ended = []
    while True:
        for result in attrop.run_queue(next_row):
            ended.append(result)
            if len(ended) == size:
                yield from measured_results(ended, measures, size, device)
                ended = []
        if not ended:
            return
        yield from measured_results(ended, measures, size, device)
        ended = []


def measured_results(
    results: list[Result], measures: ImageMeasures | None, size: int, device: torch.device
) -> Iterator[FinishedImage]:
    """At most ``size`` results of AttrOP -> finished images, with the values of ``measures`` on each."""
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
        anchors = anchors_of([result.key for result in results], size, device)
        values = measures(to_images(upload(padded, device)), upload(torch.from_numpy(identities), device), anchors)
        values = dict(zip(values, Download(*values.values()).wait(), strict=True))
    for slot, result in enumerate(results):
        measured = values_of(result) | {name: float(value[slot]) for name, value in values.items()}
        measured |= measures.on_pixels(pixels[slot].numpy()) if measures is not None else {}
        record = result.key.record(measured, result.vector, verdict_of(result, "image"))
        yield FinishedImage(result.key, pixels[slot].numpy(), record)


def values_of(result: Result) -> dict[str, float]:
    """{name: value} that AttrOP measured on the returned image."""
    return {"id_similarity": result.id_similarity, **result.values}


def verdict_of(result: Result, measured_on: str, values: dict[str, float] | None = None) -> AttrOPVerdict:
    """AttrOP's verdict for the manifest. ``measured_on`` and ``values``: see AttrOPVerdict."""
    return AttrOPVerdict(
        measured_on, result.accepted, result.iterations, tuple(result.missed), result.reason, rounded(values or {})
    )


def retry_rejected(
    images: Iterable[FinishedImage], queue: RetryQueue, gate: Gate, recipe: Recipe
) -> Iterator[FinishedImage]:
    """Yield images that pass the gate and, without pixels, those with no attempt left; put back all others."""
    for job, pixels, record in images:
        failure, tries = gate.failures(record.measured), job.tries
        if failure:
            tries = (*tries, record.measured | {"reason": failure})
            if len(tries) < gate.max_tries:
                queue.put_back(replace(job, tries=tries).start_attempt(recipe))
                continue
        measured = {} if failure else record.measured  # no image is written; the values are in ``tries``
        record = replace(record, measured=measured, passed=not failure, tries=tries)
        yield FinishedImage(job, None if failure else pixels, record)


def decode(
    generator: torch.nn.Module, queue: RetryQueue, mask_rates: MaskRates | None, batch_size: int,
    measures: ImageMeasures | None,
) -> Iterator[FinishedImage]:  # fmt: skip
    """Decode in batches padded to ``batch_size``; a batch is read back from the device while the next one runs."""
    in_flight = None
    while (batch := queue.take_batch(batch_size)) or in_flight:
        launched = launch(generator, batch, mask_rates, batch_size, measures) if batch else None
        if in_flight:
            yield from collect(*in_flight, measures)
        in_flight = (batch, *launched) if batch else None


@torch.inference_mode()
def launch(
    generator: torch.nn.Module, batch: list[ImageJob], mask_rates: MaskRates | None, batch_size: int,
    measures: ImageMeasures | None,
) -> tuple[Download, list[str]]:  # fmt: skip
    """Start decoding a batch: a Download, and the names of the values.

    The Download holds the pixels (B, 112, 112, 3) uint8, whether each image is finite (B,), and the values, (B,) each;
    B is ``batch_size``, and rows after those of ``batch`` are padding.
    """
    device = next(generator.parameters()).device
    vectors = np.ones((batch_size, batch[0].noisy.size), np.float32)
    identities = np.ones_like(vectors)
    for slot, job in enumerate(batch):
        vectors[slot], identities[slot] = job.noisy, job.wanted
    pictures = [job.landmarks.picture for job in batch if job.landmarks is not None]
    images, values = decode_rows(generator, vectors, mask_rates, [job.stream for job in batch], pictures)
    finite, pixels = images.flatten(1).isfinite().all(1), to_pixels(images)  # (B,), (B, 112, 112, 3)
    if measures is not None:
        anchors = anchors_of(batch, batch_size, device)
        values = values | measures(to_images(pixels), upload(torch.from_numpy(identities), device), anchors)
    return Download(pixels, finite, *values.values()), list(values)


def anchors_of(batch: list[ImageJob], batch_size: int, device: torch.device) -> torch.Tensor | None:
    """The anchors of the identities of some images, (batch_size, D), padded; None without a second encoder."""
    if batch[0].identity.anchor is None:
        return None
    anchors = np.ones((batch_size, len(batch[0].identity.anchor)), np.float32)
    anchors[: len(batch)] = [job.identity.anchor for job in batch]
    return upload(torch.from_numpy(anchors), device)


def collect(
    batch: list[ImageJob], download: Download, names: list[str], measures: ImageMeasures | None
) -> Iterator[FinishedImage]:
    """Wait for a batch that was launched, and yield its images."""
    pixels, finite, *values = (tensor.numpy() for tensor in download.wait())
    for slot, job in enumerate(batch):  # further rows are padding
        if not finite[slot]:
            raise not_finite(job)
        measured = {name: float(value[slot]) for name, value in zip(names, values, strict=True)}
        measured |= measures.on_pixels(pixels[slot]) if measures is not None else {}
        yield FinishedImage(job, pixels[slot], job.record(measured, job.noisy))


def not_finite(job: ImageJob) -> UserError:
    """The error of an image with NaN or infinite pixels."""
    return UserError(
        f"image {job.index} of identity {job.identity.name} is not finite (NaN or infinite); nothing of it was "
        "written. Try --precision fp32, or check the weights and this identity's vector."
    )


def assemble(images: Iterable[FinishedImage], example: int) -> Iterator[tuple[Identity, list[GeneratedImage]]]:
    """Finished images in any order -> (Identity, its GeneratedImages in order), once an identity is complete."""
    unfinished: defaultdict[int, dict[int, GeneratedImage]] = defaultdict(dict)
    for job, pixels, record in images:
        identity, done = job.identity, unfinished[job.identity.number]
        done[job.index] = GeneratedImage(pixels, record)
        if len(done) == example - identity.first_image:
            yield identity, [image for _, image in sorted(unfinished.pop(identity.number).items())]
