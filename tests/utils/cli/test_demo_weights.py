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


def test_the_demo_encoder_does_not_replace_a_missing_one_beside_the_users_generator(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    released = {"id_weights": "weights/arcface-r100-glint360k.pth"}
    flags = SimpleNamespace(model_weights="mine.pth", **released)
    demo_weights.use_demo_weights(flags)
    assert flags.id_weights == released["id_weights"]
    assert not capsys.readouterr().out
    flags = SimpleNamespace(model_weights=str(demo_weights.DEMO / "vec2face_generator.pth"), **released)
    demo_weights.use_demo_weights(flags)
    assert flags.id_weights == str(demo_weights.DEMO / "face_encoder.pth")


def test_released_files_in_the_project_are_found_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_weights, "ROOT", tmp_path / "project")
    (tmp_path / "project" / "weights").mkdir(parents=True)
    released = {"model_weights": "weights/vec2face_generator.pth", "id_weights": "weights/arcface-r100-glint360k.pth"}
    (tmp_path / "project" / released["model_weights"]).touch()
    monkeypatch.chdir(tmp_path)
    flags = SimpleNamespace(**released)
    demo_weights.use_demo_weights(flags)
    assert flags.model_weights == str(tmp_path / "project" / released["model_weights"])
    assert flags.id_weights == released["id_weights"]  # which is then reported as missing
    assert not capsys.readouterr().out
