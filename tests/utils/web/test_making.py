"""Images of the page, without a browser."""

import threading

import numpy as np
import pytest
from web_session import last

from models.errors import UserError
from utils.cli.attribute_flags import WantedAttribute
from utils.web.making import make
from utils.web.order import Drawn, Mix, Order, Sampled


def pixels(view):
    return [face.pixels.tobytes() for face in view.images]


def test_an_image_of_a_person_of_the_file_is_measured(page_session):
    (view,) = make(page_session, Order(Sampled(3), count=2))
    assert view.done
    assert [face.values.keys() for face in view.images] == [{"id_similarity", "quality", "yaw", "pitch"}] * 2
    assert all(0.5 < face.values["id_similarity"] <= 1 for face in view.images)
    assert view.status.startswith("2 images in ")


def test_more_images_begin_with_the_same_ones_and_another_seed_gives_others(page_session):
    few, more, other = (
        last(make(page_session, order))
        for order in (Order(Sampled(0), count=1), Order(Sampled(0), count=3), Order(Sampled(0), seed=1, count=1))
    )
    assert pixels(more)[:1] == pixels(few)
    assert pixels(other) != pixels(few)


def test_a_draw_is_a_person_who_is_not_alike_those_of_other_seeds(page_session):
    first, second = (page_session.vector(Drawn(seed)) for seed in (1, 2))
    assert np.array_equal(first, page_session.vector(Drawn(1)))
    assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) < 0.5


def test_a_mix_lies_between_its_two_people(page_session):
    ends = [page_session.vector(Sampled(row)) for row in (0, 7)]
    mixed = page_session.vector(Mix(Sampled(0), 7, 0.5))
    cosines = [mixed @ end / np.linalg.norm(mixed) / np.linalg.norm(end) for end in ends]
    assert cosines[0] == pytest.approx(cosines[1], abs=0.1)
    assert min(cosines) > 0.5
    assert page_session.vector(Mix(Sampled(0), 7, 0)) == pytest.approx(ends[0], rel=1e-5)


def test_a_turn_shows_iterates_on_its_way_and_says_what_was_missed(page_session):
    views = list(make(page_session, Order(Sampled(0), yaw=60, count=2, max_iters=2)))
    assert [face.note for face in views[0].images] == ["step 0"] * 2
    assert views[0].status == "AttrOP: iteration 1, 0 of 2 images done"
    assert not any(view.done for view in views[:-1])
    assert views[-1].done
    assert "0 of 2 reach the targets" in views[-1].status
    assert all(face.missed and "yaw" in face.note for face in views[-1].images)
    assert views[-1].path[0].note == "step 0"


def test_a_quality_alone_moves_the_identity_vector_and_then_adds_noise(page_session):
    views = list(make(page_session, Order(Sampled(0), quality=20, count=3)))
    assert "the identity vector reached the targets after" in views[-1].status
    assert len(views[-1].images) == 3
    assert len(views[0].images) == 1


def test_an_attribute_is_a_target_and_measured(page_session):
    view = last(
        make(page_session, Order(Sampled(0), count=1, max_iters=1, attributes=(WantedAttribute("smile", 0.8),)))
    )
    assert "smile" in view.images[0].values
    assert "smile" in view.path[0].values


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("smile", 9, "smile 9: the estimator has seen values from 0 to 0.899."),
        ("hat", 1, "hat: the attribute estimator does not know it"),
        ("age", float("nan"), "age: a number, not nan."),
        ("age", None, "age: a number, not None."),
    ],
)
def test_attributes_that_the_estimator_does_not_know_are_refused(name, value, message, page_session):
    with pytest.raises(UserError) as error:
        list(make(page_session, Order(Sampled(0), attributes=(WantedAttribute(name, value),))))
    assert str(error.value).startswith(message)


@pytest.mark.slow
def test_two_requests_at_once_get_their_own_images(page_session):
    orders = [Order(Sampled(1), quality=28, count=1, max_iters=2), Order(Sampled(2), count=1)]
    alone = [pixels(last(make(page_session, order))) for order in orders]
    found = {}
    threads = [
        threading.Thread(target=lambda n=n, o=o: found.update({n: pixels(last(make(page_session, o)))}))
        for n, o in enumerate(orders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[0], found[1]] == alone


def test_whoever_stops_watching_ends_the_work(page_session):
    views = make(page_session, Order(Sampled(0), yaw=90, max_iters=200, count=1))
    next(views)
    views.close()
    assert last(make(page_session, Order(Sampled(0), count=1))).done  # and does not wait for 200 iterations


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"yaw": 400}, "Yaw: a number from -90 to 90°, not 400."),
        ({"yaw": float("nan")}, "Yaw: a number from -90 to 90°, not nan."),
        ({"pitch": "up"}, "Pitch: a number from -60 to 60°, not 'up'."),
        ({"quality": -1}, "Quality: a number from 0 to 100, not -1."),
        ({"sigma": 1e9}, "Noise: a number from 0 to 1.5, not 1000000000.0."),
        ({"sigma": None}, "Noise: a number from 0 to 1.5, not None."),
        ({"seed": -1}, "Seed: a whole number from 0 to 4294967295, not -1."),
        ({"seed": 1.5}, "Seed: a whole number from 0 to 4294967295, not 1.5."),
        ({"count": 0}, "Number of images: a whole number from 1 to 200, not 0."),
        ({"count": True}, "Number of images: a whole number from 1 to 200, not True."),
        ({"max_iters": 10**9}, "Iterations: a whole number from 1 to 200, not 1000000000."),
    ],
)
def test_values_outside_of_their_range_are_refused(values, message):
    with pytest.raises(UserError) as error:
        Order(Sampled(0), **values)
    assert str(error.value) == message


@pytest.mark.parametrize("row", [200, -1, 1.5, "0", None, True])
def test_people_who_do_not_exist_are_refused(page_session, row):
    with pytest.raises(UserError, match="Person: a whole number from 0 to 199"):
        list(make(page_session, Order(Sampled(row))))
    with pytest.raises(UserError, match="Person: a whole number from 0 to 199"):
        list(make(page_session, Order(Mix(Sampled(0), row, 0.5))))
