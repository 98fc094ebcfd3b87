"""AttrOP: rows that retire alone, the image that is returned, and values that are not finite."""

import weakref

import numpy as np
import pytest
import torch
from grey_generator import Drawing, constant_features, grey_attrop, grey_rows

from models import AttrOP, Row, Target, at_least, pitch_target, quality_target, yaw_target
from models.masking import MaskRates
from models.vec2face import Output
from utils.generation.streams import identity_stream


def brightness(images):
    return images.mean((1, 2, 3))


def rows_for(vectors, numbers, seed=0):
    for number in numbers:
        stream = identity_stream(seed, number)
        yield Row(number, vectors[number], vectors[number], lambda stream=stream: MaskRates().draw(stream))


def by_key(results):
    return {result.key: result for result in results}


def test_rows_retire_alone_and_are_replaced_at_once():
    """Adam moves 0.1 an iteration, so a row at distance d needs about 10 d iterations: known in advance."""
    levels = [0.5, -0.5, 0.5, 0.2, 0.5, 0.5]
    attrop = grey_attrop(0.5, batch_size=2)
    results = list(attrop.run(grey_rows(levels)))
    assert all(result.accepted for result in results)
    assert [result.key for result in results] == [0, 2, 3, 4, 5, 1]  # row 1 held its place while five passed beside it
    found = by_key(results)
    assert [found[i].iterations for i in (0, 2, 4, 5)] == [1, 1, 1, 1]
    assert 3 <= found[3].iterations <= 5
    assert 8 <= found[1].iterations <= 14
    assert len(attrop.generator.batches) == found[1].iterations


def test_one_row_moves_as_adam_of_torch_moves_it():
    """One row alone moves as torch's Adam moves it."""
    attrop = grey_attrop(0.9, batch_size=1, max_iters=6)
    list(attrop.run(grey_rows([0.0])))
    level = torch.zeros(1, requires_grad=True)
    adam = torch.optim.Adam([level], lr=0.1)
    for batch in attrop.generator.batches:
        assert batch[0, 0].item() == pytest.approx(level.item(), abs=1e-5)
        adam.zero_grad()
        (level - 0.9).abs().sum().backward()
        adam.step()


def test_a_row_that_never_passes_ends_at_max_iters_with_its_best_image_and_the_reason():
    attrop = grey_attrop(5.0, batch_size=2, max_iters=4)  # images are clipped at 1: out of reach
    results = by_key(attrop.run(grey_rows([0.0, 0.3])))
    for result in results.values():
        assert not result.accepted
        assert result.iterations == 4
        assert result.reason == "grey missed after 4 iterations"
        assert result.missed == ("grey",)
        assert result.image[0, 0, 0].item() == pytest.approx(result.values["grey"])
        assert result.vector[0] == pytest.approx(result.values["grey"])
    assert results[1].values["grey"] == pytest.approx(0.6, abs=1e-4)  # the last of four was the best


def test_the_best_image_is_returned_also_when_it_is_not_the_last():
    """Overshooting: with a target that only looks at the first iterations, the lowest loss is kept."""
    losses = iter([3.0, 1.0, 2.0, 4.0])
    target = Target("walk", lambda images: images[:, 0, 0, 0] * 0 + next(losses), penalty=lambda x: x, tolerance=0.5)
    attrop = AttrOP(Drawing(), constant_features, [target], batch_size=1, max_iters=4)
    (result,) = attrop.run(grey_rows([0.0]))
    assert result.values["walk"] == 1.0


def test_nan_in_one_row_ends_that_row_only():
    clean = by_key(grey_attrop(0.5, batch_size=3).run(grey_rows([0.0, 0.1, 0.2, 0.3])))
    levels = [0.0, float("nan"), 0.2, 0.3]
    dirty = by_key(grey_attrop(0.5, batch_size=3).run(grey_rows(levels)))
    assert not dirty[1].accepted
    assert dirty[1].image is None
    assert dirty[1].reason == "not finite at iteration 1"
    for key in (0, 2, 3):
        assert dirty[key].iterations == clean[key].iterations
        assert np.array_equal(dirty[key].vector, clean[key].vector)


def test_nan_later_keeps_the_best_image_so_far():
    calls = iter([0.0, 0.0, float("nan")])
    target = Target("bad", lambda images: images[:, 0, 0, 0] + next(calls), lambda x: (x - 5).abs(), tolerance=0.1)
    (result,) = AttrOP(Drawing(), constant_features, [target], batch_size=1).run(grey_rows([0.0]))
    assert result.reason == "not finite at iteration 3"
    assert result.image.isfinite().all()


def test_a_row_that_was_never_finite_has_no_values_of_the_row_before_it():
    (first, second) = grey_attrop(0.5, batch_size=1).run(grey_rows([0.5, float("nan")]))
    assert (first.accepted, first.missed, first.values["grey"]) == (True, (), 0.5)
    assert second.image is None
    assert np.isnan([second.id_similarity, second.values["grey"]]).all()
    assert second.missed == ("id_similarity", "grey")


def test_each_iteration_is_reported_with_the_rows_that_ended_in_it():
    ended = []
    attrop = grey_attrop(0.5, batch_size=2, max_iters=4, on_iteration=lambda results: ended.append(len(results)))
    list(attrop.run(grey_rows([0.5, -5, 0.5, 0.4])))
    assert ended == [1, 1, 0, 2]


class HalfDrawing(Drawing):
    """In float16. The second number of a vector becomes the image's second channel."""

    def __init__(self):
        super().__init__()
        self.half()

    def forward(self, vectors, mask):
        self.batches.append(vectors.detach().clone())
        images = vectors[:, [0, 1, 1], None, None].half().expand(-1, -1, 112, 112)
        return Output(images.float(), None, None)


def test_a_row_whose_float16_gradient_overflows_waits_an_iteration_and_goes_on_with_a_smaller_scale():
    """Where the second channel is bright the loss has a slope of 100: times the scale that is more than 65,504."""
    rows = list(grey_rows([0.0, 0.0]))
    rows[1].vector[1] = 1.0

    def steep(images):
        return images[:, 0, 0, 0] * torch.where(images[:, 1, 0, 0] > 0.5, 100.0, 1.0).detach()

    attrop = AttrOP(
        HalfDrawing(), constant_features, [at_least("grey", steep, 1000, tolerance=0.1)], batch_size=2, max_iters=4
    )
    results = by_key(attrop.run(rows))
    first = torch.stack([batch[:, 0] for batch in attrop.generator.batches])  # (4, 2)
    torch.testing.assert_close(first[:, 0], torch.tensor([0.0, 0.1, 0.2, 0.3]), atol=1e-3, rtol=0)
    torch.testing.assert_close(first[:, 1], torch.tensor([0.0, 0.0, 0.1, 0.2]), atol=1e-3, rtol=0)
    assert [results[key].iterations for key in (0, 1)] == [4, 4]
    assert [results[key].reason for key in (0, 1)] == ["grey missed after 4 iterations"] * 2


GRAPHS = []


class Watched(torch.autograd.Function):
    """The identity; GRAPHS gets a weak reference to every graph that it becomes a part of."""

    @staticmethod
    def forward(ctx, x):
        GRAPHS.append(weakref.ref(ctx))
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_the_graph_is_freed_before_results_are_handed_out():
    """Else AttrOP's memory adds to that of whoever decodes the results."""
    attrop = grey_attrop(0.5, batch_size=2)
    attrop.generator.register_forward_hook(
        lambda module, inputs, output: output._replace(images=Watched.apply(output.images))
    )
    GRAPHS.clear()
    for _ in attrop.run(grey_rows([0.5, -0.5, 0.5])):
        assert GRAPHS
        assert not any(graph() for graph in GRAPHS)


def test_the_image_returned_is_the_one_that_was_checked(generator, encoder, vectors):
    targets = [at_least("brightness", brightness, -0.1, tolerance=0.02, weight=50)]
    attrop = AttrOP(generator, encoder, targets, batch_size=3, max_iters=25)
    results = list(attrop.run(rows_for(vectors, range(4))))
    assert any(result.accepted for result in results)
    for result in results:
        image = result.image[None]
        assert brightness(image).item() == pytest.approx(result.values["brightness"], abs=1e-5)
        with torch.no_grad():
            feature = encoder(image)[0]
        similarity = torch.cosine_similarity(feature, torch.from_numpy(vectors[result.key]), dim=0).item()
        assert similarity == pytest.approx(result.id_similarity, abs=1e-4)
        if result.accepted:
            assert result.values["brightness"] >= -0.12
            assert result.id_similarity >= 0.7


def test_a_row_does_not_depend_on_its_neighbours(generator, encoder, vectors):
    def run(numbers):
        attrop = AttrOP(generator, encoder, [quality_target(encoder, 26)], batch_size=3, max_iters=6)
        return by_key(attrop.run(rows_for(vectors, numbers)))

    together, alone = run(range(5)), run([3])
    assert np.array_equal(together[3].vector, alone[3].vector)
    assert torch.equal(together[3].image, alone[3].image)


def test_targets_with_one_model_share_its_forward_pass(generator, encoder, vectors):
    calls = []

    def counted(images):
        calls.append(len(images))
        return encoder(images)

    attrop = AttrOP(generator, counted, [quality_target(counted, 10)], batch_size=2, max_iters=1)
    list(attrop.run(rows_for(vectors, range(2))))
    assert calls == [2]


def test_the_yaw_target_ignores_the_side_unless_it_is_signed():
    angles = torch.tensor([[0.0, -40.0, 0.0], [10.0, 40.0, 0.0], [0.0, 100.0, 0.0]])
    unsigned, signed = yaw_target(None, 45), yaw_target(None, 45, signed=True)
    assert unsigned.read(angles).tolist() == [-40, 40, 90]
    assert unsigned.penalty(unsigned.read(angles)).tolist() == [5, 5, 45]
    assert signed.penalty(signed.read(angles)).tolist() == [85, 5, 45]
    pitch = pitch_target(None, -10)
    assert pitch.penalty(pitch.read(angles)).tolist() == [10, 20, 10]


@pytest.mark.slow
def test_pose_gradients_pass_through_the_full_size_networks(base_models):
    """Descent towards a yaw with 6DRepNet and filled weights ends nearer to it, and the record is what was measured."""
    vector = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    row = Row(0, vector, vector, lambda: (np.linspace(0, 1, 49), 0.2))  # one mask for all iterations
    pose = base_models["pose"]
    models = (base_models["generator"], base_models["encoder"])

    def run(wanted, iterations):
        target = yaw_target(pose, wanted, tolerance=1)
        attrop = AttrOP(*models, [target], batch_size=1, max_iters=iterations, id_weight=0, id_tolerance=2)
        return next(attrop.run([row]))

    start = abs(run(90, iterations=1).values["yaw"])
    result = run(start + 8, iterations=6)
    assert abs(abs(result.values["yaw"]) - (start + 8)) < 4
    with torch.no_grad():
        assert pose(result.image[None])[0, 1].item() == pytest.approx(result.values["yaw"], abs=1e-2)


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"batch_size": 1, "max_iters": 0}])
def test_a_batch_size_or_iteration_limit_of_zero_is_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        AttrOP(Drawing(), constant_features, **sizes)


def test_no_rows_give_no_results():
    assert list(grey_attrop(0.5, batch_size=2).run([])) == []


def test_every_tenth_iterate_of_each_row_is_shown_on_its_way_to_the_target():
    """Adam moves 0.1 an iteration; the third row begins when a slot is free, and has iterations of its own."""
    seen = []
    attrop = grey_attrop(0.9, batch_size=2, on_iterates=seen.extend, iterates_every=4)
    ended = by_key(attrop.run(grey_rows([0.0, 0.5, 0.0])))
    shown = {key: [iterate.iteration for iterate in seen if iterate.key == key] for key in ended}
    assert shown == {0: [1, 5, 9], 1: [1, 5], 2: [1, 5, 9]}
    levels = [iterate.image[0, 0, 0].item() for iterate in seen if iterate.key == 2]
    assert levels == pytest.approx([0.0, 0.4, 0.8], abs=0.02)
    assert [iterate.values["grey"] for iterate in seen if iterate.key == 2] == pytest.approx(levels)


def test_watching_the_iterates_does_not_change_the_results(generator, encoder, vectors):
    def vectors_of(**options):
        attrop = AttrOP(generator, encoder, [quality_target(encoder, 30)], batch_size=2, max_iters=2, **options)
        return [result.vector.tobytes() for result in attrop.run(rows_for(vectors, [0, 1]))]

    assert vectors_of(on_iterates=lambda iterates: None, iterates_every=1) == vectors_of()
