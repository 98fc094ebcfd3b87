"""The quality that is asked for when the user names none."""

from types import SimpleNamespace

from utils.generation.networks import default_quality


def test_the_default_quality_comes_from_the_file():
    assert default_quality(None) == 27
    assert default_quality(SimpleNamespace(feature_norms=None)) == 27
    assert default_quality(SimpleNamespace(feature_norms={"50%": 20.0})) == 27
    assert default_quality(SimpleNamespace(feature_norms={"50%": 20.0, "75%": 21.5})) == 21.5


def test_less_quality_is_asked_of_turned_faces():
    model = SimpleNamespace(feature_norms={"5%": 16.0, "50%": 22.0, "75%": 25.0})
    assert [default_quality(model, yaw) for yaw in (0, 45, -45, 90)] == [22, 19, 19, 16]
    assert default_quality(SimpleNamespace(feature_norms=None), 45) == 27
