"""The demo models stand in for released files that are not there."""

from types import SimpleNamespace

from utils.cli import demo_weights


def test_demo_weights_are_used_only_if_no_released_file_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    released = {"model_weights": "weights/vec2face_generator.pth", "id_weights": "weights/arcface-r100-glint360k.pth"}
    flags = SimpleNamespace(**released, quality_weights="mine.pth")
    demo_weights.use_demo_weights(flags)
    assert flags.model_weights == str(demo_weights.DEMO / "vec2face_generator.pth")
    assert flags.quality_weights == "mine.pth"
    assert "demo models" in capsys.readouterr().out
    (tmp_path / "weights").mkdir()
    (tmp_path / released["id_weights"]).touch()
    flags = SimpleNamespace(**released)
    demo_weights.use_demo_weights(flags)
    assert vars(flags) == released
    assert not capsys.readouterr().out
    assert all((demo_weights.DEMO / name).exists() for name in demo_weights.STAND_INS.values())
