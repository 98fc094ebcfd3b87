"""generate(): the draws of an image depend on (seed, identity, image) alone, its pixels hardly on anything else."""

import numpy as np
import pytest

from models import AttrOP, quality_target
from models.errors import UserError
from utils.generation.pipeline import generate
from utils.generation.recipe import Identity, Recipe


def people(vectors, numbers):
    return [Identity(number, f"{number:06d}", vectors[number]) for number in numbers]


def run(generator, vectors, numbers, batch_size, recipe=None, **options):
    recipe = recipe or Recipe(4, (0.3, 0.5), seed=1)
    return {
        i.number: images for i, images in generate(generator, people(vectors, numbers), recipe, batch_size, **options)
    }


def pixels(images):
    return np.stack([image.pixels for image in images]).astype(int)


def test_same_batch_size_gives_the_same_bytes_in_any_order_and_slice(generator, vectors):
    whole = run(generator, vectors, range(5), batch_size=8)
    again = run(generator, vectors, [4, 2], batch_size=8)
    for number, images in again.items():
        assert np.array_equal(pixels(images), pixels(whole[number]))
        assert [image.record for image in images] == [image.record for image in whole[number]]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_rounding_only(generator, vectors, batch_size):
    reference = run(generator, vectors, range(3), batch_size=8)
    other = run(generator, vectors, range(3), batch_size=batch_size)
    for number, images in other.items():
        assert np.abs(pixels(images) - pixels(reference[number])).max() <= 1
        assert [image.record for image in images] == [image.record for image in reference[number]]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("attrop_on", ["identity", "image"])
def test_attrop_draws_do_not_depend_on_the_batch_size(generator, encoder, vectors, batch_size, attrop_on):
    """Two iterations: too few for rounding to grow."""

    def with_attrop(size):
        attrop = AttrOP(generator, encoder, [quality_target(encoder, 60)], batch_size=size, max_iters=2)
        recipe = Recipe(2, (0.3, 0.5))
        return run(generator, vectors, range(2), size, recipe, attrop=attrop, attrop_on=attrop_on)

    reference, other = with_attrop(5), with_attrop(batch_size)
    for number, images in other.items():
        for one, two in zip(images, reference[number], strict=True):
            assert one.record.sigma == two.record.sigma
            assert one.record.attrop == two.record.attrop or attrop_on == "image"
            for verdict in (one.record.attrop, two.record.attrop):
                assert verdict is None or verdict.iterations == 2
            if attrop_on == "image":
                assert one.record.measured["quality"] == pytest.approx(two.record.measured["quality"], abs=0.05)
            assert np.abs(one.pixels.astype(int) - two.pixels).mean() < 1


def test_what_attrop_measured_stands_beside_the_image_it_measured(generator, encoder, vectors):
    """On this very image at the top, on the check image of the identity vector within the verdict."""
    attrop = AttrOP(generator, encoder, [quality_target(encoder, 20)], batch_size=4, max_iters=3)
    on_images = run(generator, vectors, [0], 4, Recipe(3, (0.7,)), attrop=attrop, attrop_on="image")[0]
    for image in on_images:
        assert image.record.measured.keys() == {"id_similarity", "quality"}
        assert image.record.attrop.measured_on == "image"
        assert image.record.attrop.values == {}
        assert image.pixels.shape == (112, 112, 3)
        assert image.pixels.dtype == np.uint8
    on_vector = run(generator, vectors, [0], 4, Recipe(3, (0.7,)), attrop=attrop)[0]
    assert all(image.record.measured == {} for image in on_vector)
    assert on_vector[0].record.attrop.measured_on == "check image"
    assert on_vector[0].record.attrop.values.keys() == {"id_similarity", "quality"}
    assert [image.record.attrop for image in on_vector[1:]] == [None, None]


def test_images_of_a_person_differ_and_seeds_too(generator, vectors):
    images = pixels(run(generator, vectors, [0], 4)[0])
    assert len({image.tobytes() for image in images}) == 4
    other = pixels(run(generator, vectors, [0], 4, Recipe(4, (0.3, 0.5), seed=2))[0])
    assert not np.array_equal(images, other)


def test_images_look_like_their_identity(generator, encoder, vectors):
    """Every image's feature is nearest to the vector it was drawn from, among 20 people."""
    import torch

    found = run(generator, vectors, range(20), batch_size=16, recipe=Recipe(2, (0.5,)))
    centres = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    for number, images in found.items():
        batch = torch.from_numpy(pixels(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            features = encoder(batch).numpy()
        assert (features @ centres.T).argmax(1).tolist() == [number] * 2


def test_a_consumer_may_stop_early(generator, vectors):
    iterator = generate(generator, people(vectors, range(50)), Recipe(1, (0.3,)), 4)
    identity, images = next(iterator)
    assert identity.number == 0
    assert len(images) == 1
    iterator.close()


def test_an_image_that_is_not_finite_is_an_error(generator, vectors):
    bad = vectors.copy()
    bad[1] = np.nan
    iterator = generate(generator, people(bad, range(3)), Recipe(1, (0.3,)), 1)
    assert next(iterator)[0].number == 0
    with pytest.raises(UserError, match="image 0 of identity 000001 is not finite"):
        list(iterator)
