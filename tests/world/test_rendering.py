"""Rendered people: the same photos however they are made, and labels that tell the truth."""

import json

import numpy as np
import pytest
from commands import refused
from paths import files_of

from models.errors import UserError
from utils.data.face_set import FaceSet
from utils.data.landmarks import landmarks_at
from utils.evaluation.verification import features_of
from world import render_faces
from world.renderer.hair import CUTS, Hairdresser
from world.renderer.mixture import mix_traits
from world.renderer.person import draw_traits, person_of, rotation, stream
from world.renderer.photo import Photographer, draw_setting, quality_of

PLAIN = {
    "pitch": 0, "roll": 0, "yaw": 0, "expression": {}, "gaze": [0, 0], "distance": 1.0, "glasses": False, "warmth": 0,
    "light_azimuth": 0, "light_elevation": 30, "light_hardness": 0.5, "exposure": 1.0, "occluded": False, "blur": 0,
    "resolution": 1, "noise": 0, "jpeg": 95,
}  # fmt: skip


@pytest.fixture(scope="module")
def photographer():
    return Photographer(*render_faces.studio(), 0, 3)


def shoot(photographer, **setting):
    return photographer.shoot(PLAIN | setting, stream(0, 3, 9))


def render(folder, *words):
    render_faces.main([*map(str, words), "--output", str(folder)])


def test_any_number_of_workers_and_interruptions_give_the_same_files(tmp_path):
    render(tmp_path / "one", "--identities", 3, "--images", 2, "--workers", 1)
    render(tmp_path / "parts", "--identities", 2, "--images", 2, "--workers", 2)
    (tmp_path / "parts" / ".000002").mkdir()  # what a kill leaves
    render(tmp_path / "parts", "--identities", 3, "--images", 2, "--workers", 2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "parts")
    lines = [json.loads(line) for line in (tmp_path / "one" / "labels.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"{i:06d}/{j:03d}.jpg" for i in range(3) for j in range(2)]
    assert all(-90 <= line["yaw"] <= 90 and 0 < line["quality"] <= 1 for line in lines)
    assert all(np.shape(line["landmarks"]) == (5, 2) for line in lines)
    render(tmp_path / "x.lmdb", "--identities", 3, "--images", 2)
    faces = FaceSet(tmp_path / "x.lmdb")
    assert [faces.read(i) for i in range(6)] == [(tmp_path / "one" / line["file"]).read_bytes() for line in lines]
    assert (tmp_path / "x.jsonl").read_text() == (tmp_path / "one" / "labels.jsonl").read_text()


def test_other_settings_are_refused(tmp_path, capsys):
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 0, "images": 3}))
    with pytest.raises(SystemExit):
        render(tmp_path, "--identities", 1, "--images", 2)
    assert "was begun with" in capsys.readouterr().err


def test_photos_of_mixtures_have_soft_labels_and_the_conditions_that_they_have_without_mixup(tmp_path):
    words = ["--identities", 2, "--first_identity", 5, "--images", 2, "--identity_mixup", "linspace:0.6:0.8:2"]
    render(tmp_path / "mixed", *words, "--workers", 2)
    render(tmp_path / "mixed.lmdb", *words, "--workers", 1)
    lines = [json.loads(line) for line in (tmp_path / "mixed" / "labels.jsonl").read_text().splitlines()]
    assert [line["mixture"]["name"] for line in lines] == ["000006", "000006", "000005", "000005"]
    assert {line["mixture"]["phi"] for line in lines} <= {0.6, 0.8}
    for number, line in enumerate(lines):
        setting = draw_setting(stream(0, 5 + number // 2, 2, number % 2), 0)
        assert {name: line[name] for name in setting if name != "glasses"} == (
            {name: value for name, value in setting.items() if name != "glasses"}
        )
    folder, lmdb = (FaceSet(tmp_path / name, mixtures="read") for name in ("mixed", "mixed.lmdb"))
    assert [folder.read(i) for i in range(4)] == [lmdb.read(i) for i in range(4)]
    for faces in (folder, lmdb):
        assert faces.labels.tolist() == [0, 0, 1, 1]
        assert faces.soft.second.tolist() == [1, 1, 0, 0]
        assert faces.soft.phi.tolist() == [line["mixture"]["phi"] for line in lines]
    with pytest.raises(UserError, match="each image is a mixture of two identities"):
        FaceSet(tmp_path / "mixed")


def test_a_mixture_lies_between_two_people(photographer):
    model, painter = render_faces.studio()
    one, other = (draw_traits(model, 0, identity) for identity in (3, 4))
    mixture = mix_traits(one, other, 0.75)
    assert mixture.phenotypes["age"] == pytest.approx(0.75 * one.phenotypes["age"] + 0.25 * other.phenotypes["age"])
    assert all(value == pytest.approx(0.75 * one.shapes[name] + 0.25 * other.shapes[name])
               for name, value in mixture.shapes.items())  # fmt: skip
    assert np.allclose(mixture.look["iris"], 0.75 * one.look["iris"] + 0.25 * other.look["iris"])
    assert (mixture.look["cut"], mixture.look["length"]) == (one.look["cut"], one.look["length"])
    assert mix_traits(one, other, 0.25).look["cut"] == other.look["cut"]
    whole = Photographer(model, painter, 0, 3, mixture=(4, 1.0))
    assert np.array_equal(whole.take(0)[0], photographer.take(0)[0])
    assert not np.array_equal(Photographer(model, painter, 0, 3, mixture=(4, 0.6)).take(0)[0], photographer.take(0)[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--identities", 1, "--identity_mixup", 0.8], "there is only one identity"),
        (["--grid", 0, "--identity_mixup", 0.8], "does not go with --grid"),
        (["--identity_mixup", 1.8], "needs shares from 0 to 1"),
        (["--identity_mixup", "linspace:0.6"], "must be linspace:LOW:HIGH:COUNT"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(words, message, tmp_path, capsys):
    assert message in refused(render_faces.main, [*words, "--output", tmp_path / "x"], capsys)
    assert not (tmp_path / "x").exists()


def test_labelled_landmarks_are_where_an_average_head_has_them(photographer):
    """To a few pixels: people differ. Expressions and the distance move them, too."""
    errors = []
    for yaw in (-80, -30, 0, 30, 80):
        for pitch, roll in ((0, 0), (20, 0), (-15, 10)):
            found = photographer.landmarks(PLAIN | {"yaw": yaw, "pitch": pitch, "roll": roll})
            errors.append(np.abs(found - landmarks_at(yaw, pitch, roll)).max())
    assert np.mean(errors) < 4
    opened = photographer.landmarks(PLAIN | {"expression": {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9}})
    smiling, plain = (points[4, 0] - points[3, 0] for points in (opened, photographer.landmarks(PLAIN)))
    assert smiling > plain + 1


def test_positive_yaw_turns_the_nose_to_the_right_and_positive_pitch_turns_it_up(photographer):
    figure = photographer.figure
    for yaw, side in ((40, 1), (-40, -1)):
        turned = figure.rest @ rotation(np.deg2rad(yaw), 0, 0).T
        assert np.sign(turned[figure.landmarks["nose"], 0]) == side
    up = figure.rest @ rotation(0, np.deg2rad(20), 0).T
    assert up[figure.landmarks["nose"], 2] > figure.rest[figure.landmarks["nose"], 2]


def test_the_pupils_are_where_the_face_template_expects_them(photographer):
    """Dark pupils where ArcFace expects the eyes, at any distance."""
    for distance in (0.6, 1.6):
        picture = shoot(photographer, distance=distance).astype(float).mean(2)
        for x in (38, 74):
            eye = picture[44:60, x - 8 : x + 8]
            assert eye.min() < 0.6 * picture[60:90, 45:67].mean()


def test_a_face_encoder_finds_photos_of_one_identity_more_alike_than_those_of_two(photographer, encoder):
    """Five identities, each from the left and from the right in another light."""
    studio, features = render_faces.studio(), []
    for number in range(5):
        one = Photographer(*studio, 0, number)
        views = [shoot(one, yaw=yaw, light_azimuth=yaw * 3) for yaw in (-15, 15)]
        features.append(features_of(encoder, views))
    features = np.stack(features) / np.linalg.norm(features, axis=-1, keepdims=True)  # (5, 2, 512)
    similarity = features[:, 0] @ features[:, 1].T  # (5, 5): from the left to from the right
    assert similarity.diagonal().min() > 0.9
    assert similarity[~np.eye(5, dtype=bool)].max() < 0.6


def test_the_same_setting_gives_the_same_photo(photographer):
    assert np.array_equal(shoot(photographer, yaw=10), shoot(photographer, yaw=10))
    assert not np.array_equal(shoot(photographer, yaw=10), shoot(photographer, yaw=11))


def test_a_photo_does_not_depend_on_those_taken_before(photographer):
    photographer.take(0)
    after = photographer.take(1)[0]
    assert np.array_equal(after, Photographer(*render_faces.studio(), 0, 3).take(1)[0])


@pytest.mark.parametrize("cut", [None, *CUTS])
def test_hair_grows_on_the_head_and_leaves_the_eyes_free(cut):
    model, painter = render_faces.studio()
    person = person_of(model, draw_traits(model, 0, 3))
    style = CUTS.get(cut)
    length, thickness = (style.length[1], style.thickness[1]) if style else (0, 0)
    person.look |= {"cut": cut, "length": length, "thickness": thickness, "fringe": 0.0, "bald_top": False}
    hairdresser = Hairdresser(model.head, painter.regions, person.vertices, stream(0, 3, 1))
    kinds = [kind for kind, _ in hairdresser.all(person.look)]
    assert ("hair" in kinds) == (cut is not None)
    assert {"beard", "lash"} <= set(kinds)  # brows are of the beard's colour
    if cut is None:
        return
    strands = hairdresser.scalp(person.look)
    assert np.isfinite(strands.points).all()
    assert len(strands.points) > 1000
    reach = np.linalg.norm(strands.points[:, -1] - strands.points[:, 0], axis=-1)
    assert reach.max() < 1.2 * length + 2 * thickness + 0.02
    eyes = person.vertices[np.unique(model.head.faces[model.head.eye_faces])]
    before = (strands.points[..., 1] < eyes[:, 1].max()) & (np.abs(strands.points[..., 0]) < 0.045)
    before &= np.abs(strands.points[..., 2] - eyes[:, 2].mean()) < 0.012
    assert before.mean() < 0.002


def test_dark_creases_see_little_of_their_surroundings():
    head = render_faces.studio()[0].head
    assert head.openness[head.landmarks["nose"]] > 0.8
    assert np.median(head.openness[np.unique(head.faces[head.inner_faces])]) < 0.3


def test_quality_falls_with_what_spoils_a_photo(photographer):
    best = quality_of(PLAIN)
    assert best == 1
    for worse in ({"blur": 1.5}, {"resolution": 0.4}, {"noise": 8}, {"occluded": True}, {"exposure": 0.6}):
        assert quality_of(PLAIN | worse) < best
    sharp, blurred = (shoot(photographer, blur=blur).astype(float) for blur in (0, 2))
    assert np.abs(np.diff(blurred, axis=1)).mean() < 0.8 * np.abs(np.diff(sharp, axis=1)).mean()


def test_settings_come_from_their_stream():
    assert draw_setting(stream(1, 2, 2, 3), 0.5) == draw_setting(stream(1, 2, 2, 3), 0.5)
    yaws = [abs(draw_setting(stream(0, 0, 2, i), 0)["yaw"]) for i in range(2000)]
    assert np.median(yaws) < 20
    assert max(yaws) > 80
