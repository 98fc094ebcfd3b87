"""An output folder that holds a training run: refused, resumed or overwritten, and only as asked."""

import pytest
from fr_training import flags as fr_flags
from fr_training import train
from generator_training import checkpoint, flags, run
from paths import files_of

from models.errors import UserError
from scripts import train_fr
from utils.training.folder import check_output_folder
from world import train_pose

RUN = ("checkpoint-last.pth", "checkpoint-25.pth", "log.jsonl", "events.out.tfevents.1.host")
OTHERS = ("notes.txt", "checkpoint-best.pth", "vec2face_generator.pth", "old.log.jsonl")


@pytest.fixture
def occupied(tmp_path):
    for name in (*RUN, *OTHERS, "model.pth"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "checkpoint-last.pth").write_text("earlier")
    return tmp_path


def refused(main, words, capsys):
    with pytest.raises(SystemExit) as error:
        main([str(word) for word in words])
    assert error.value.code == 2
    return capsys.readouterr().err


def test_every_training_refuses_a_folder_that_holds_a_run(demo, training_lmdb, occupied, capsys):
    before = files_of(occupied)
    for main, words in (
        (lambda words: run(*words), flags(demo, training_lmdb, occupied)),
        (train_fr.main, fr_flags(occupied)),
        (train_pose.main, ["--data", "nowhere", "--output_dir", occupied]),
    ):
        message = refused(main, words, capsys)
        assert "already holds a training run (checkpoint-25.pth, checkpoint-last.pth, log.jsonl" in message
        assert f"--resume {occupied}" in message
        assert "--overwrite" in message
    assert files_of(occupied) == before


def test_a_run_elsewhere_is_not_resumed_over_another(demo, training_lmdb, occupied, capsys):
    before = files_of(occupied)
    words = flags(demo, training_lmdb, occupied, "--resume", demo.generator)
    assert "already holds a training run" in refused(lambda words: run(*words), words, capsys)
    assert files_of(occupied) == before


def test_overwriting_deletes_the_run_and_nothing_else(demo, training_lmdb, occupied):
    before = files_of(occupied)
    run(*flags(demo, training_lmdb, occupied, "--overwrite", "--max_steps", 1))
    after = files_of(occupied)
    kept = (*OTHERS, "model.pth", "earlier/checkpoint-last.pth")  # vec2face.py writes no model.pth
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert not {"checkpoint-25.pth", "events.out.tfevents.1.host"} & after.keys()
    assert checkpoint(occupied)["step"] == 1


def test_overwriting_an_encoder_deletes_its_model_file_too(occupied):
    train(*fr_flags(occupied, "--overwrite", "--max_steps", 1))
    assert (occupied / "model.pth").stat().st_size > 1000  # that of the new run
    assert not (occupied / "checkpoint-25.pth").exists()
    assert all((occupied / name).exists() for name in OTHERS)


def test_overwriting_deletes_nothing_when_the_new_run_cannot_begin(demo, training_lmdb, occupied, capsys):
    before = files_of(occupied)
    for more in (["--id_weights", "nowhere.pth"], ["--batch_size", 5], ["--start_from", demo.encoder], ["--epocs", 3]):
        refused(lambda words: run(*words), flags(demo, training_lmdb, occupied, "--overwrite", *more), capsys)
        assert files_of(occupied) == before
    refused(train_fr.main, fr_flags(occupied, "--overwrite", "--backbone", "nowhere.pth"), capsys)
    assert files_of(occupied) == before


def test_resuming_and_overwriting_the_same_run_is_refused(demo, training_lmdb, occupied, capsys):
    for path in (occupied, occupied / "checkpoint-25.pth"):
        words = flags(demo, training_lmdb, occupied, "--overwrite", "--resume", path)
        assert "--overwrite deletes the run that --resume" in refused(lambda words: run(*words), words, capsys)


def test_resuming_where_nothing_is_yet_says_so(demo, training_lmdb, tmp_path, capsys):
    for folder in (tmp_path / "missing", tmp_path):
        run(*flags(demo, training_lmdb, folder, "--resume", folder, "--max_steps", 1))
        assert f"{folder}: no checkpoint there yet: starting anew" in capsys.readouterr().out
    train(*fr_flags(tmp_path / "fr", "--resume", tmp_path / "fr", "--max_steps", 1))
    assert "no checkpoint there yet: starting anew" in capsys.readouterr().out
    run(*flags(demo, training_lmdb, tmp_path, "--resume", tmp_path, "--max_steps", 2))
    assert "resumed at step 1 of 2" in capsys.readouterr().out


def test_a_finished_model_without_its_checkpoint_is_not_trained_over(tmp_path, capsys):
    (tmp_path / "model.pth").write_text("trained for a week")
    message = refused(train_fr.main, fr_flags(tmp_path, "--resume", tmp_path), capsys)
    assert "holds model.pth, but no checkpoint-last.pth" in message
    assert (tmp_path / "model.pth").read_text() == "trained for a week"


def test_a_log_alone_is_resumed_from_the_beginning(tmp_path):
    """A run that was killed before its first checkpoint: the command its user has goes on working."""
    (tmp_path / "log.jsonl").write_text('{"step": 20}\n')
    check_output_folder(tmp_path, resume=tmp_path)
    with pytest.raises(UserError, match=r"already holds a training run \(log.jsonl\)"):
        check_output_folder(tmp_path)
