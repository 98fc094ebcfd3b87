"""From rendered people to a generator of them: every stage of `make world`, at toy size."""

import importlib
import json
import shlex
import subprocess
from glob import glob
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from models import TokenMask, load_face_encoder, load_vec2face
from models.errors import UserError
from models.heads import HEADS, make_head
from models.sixdrepnet import SMALL, SixDRepNet, euler_angles, load_pose_estimator
from models.traces import Traces
from models.weight_files import load_file, sha256, state_dict_of
from scripts import attribute_sheet, change_encoder, shrink_weights, small_portion_training_mask, train_fr
from scripts import test_fr as tester
from utils.cli import demo_weights
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.fr_data import RecognitionData
from utils.evaluation.reconstruction import high_frequency_fraction
from utils.evaluation.verification import features_of
from utils.evaluation.verification_sets import STYLES, draw_pairs
from utils.generation.make_dataset import usual_quality
from world import render_faces, train_pose
from world.train_pose import geodesic_loss, rotation_of


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered") / "people"
    render_faces.main(["--identities", "5", "--images", "12", "--output", str(folder)])
    return folder


@pytest.mark.slow
def test_every_stage_of_make_world(tmp_path, capsys):
    """All the commands of the whole chain, in this process."""
    world = tmp_path / "world"
    sizes = {
        "WORLD": world, "PY": "python", "PEOPLE": 5, "UNSEEN_PEOPLE": 4, "IMAGES": 10, "PAIRS": 4, "VECTORS": 2,
        "WORLD_FR": "--network 18 --width 16 --batch_size 8 --max_steps 2 --workers 0",
        "WORLD_JUDGE": "--network 18 --width 16 --batch_size 8 --max_steps 2 --workers 0",
        "WORLD_POSE": "--batch_size 8 --max_steps 2 --workers 0", "WORLD_SIMILARITY": "--max_similarity 0.999",
        "WORLD_GENERATOR": "--batch_size 2 --max_steps 2 --warmup_epochs 0 --workers 0",
        "WORLD_GAN": "--batch_size 2 --max_steps 2 --disc_width 8 --warmup_epochs 0 --workers 0",
        "WORLD_POLISH": "--batch_size 2 --max_steps 1 --disc_width 8 --warmup_epochs 0 --workers 0",
        "WORLD_DATASET": "--example 3", "WORLD_ATTROP": "--max_iters 1 --batch_size 2",
    }  # fmt: skip
    listed = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed-render", "world", *(f"{name}={value}" for name, value in sizes.items())],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for line in listed.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        if program == "python":
            words = [match for word in words for match in (glob(word) if "*" in word else [word])]
            importlib.import_module(words[0].removesuffix(".py").replace("/", ".")).main(words[1:])
        elif program == "mv":
            Path(words[0]).rename(words[1])
    for name in ("fr", "judge", "quality", "pose/scores", "generator", "yaw"):
        assert json.loads((world / f"{name}.json").read_text())
    scores = json.loads((world / "generator.json").read_text())
    assert {"judge_similarity_mean", "recognised_with_noise", "sharpness"} <= scores.keys()
    assert (world / "dataset" / "report.html").exists()
    assert sum(path.stat().st_size for path in (world / "weights").iterdir()) < 45e6


def test_labels_belong_to_their_photos(rendered, tmp_path):
    faces = FaceSet(rendered)
    labels = load_labels(faces)
    assert [label["identity"] for label in labels] == faces.labels.tolist()
    np.save(tmp_path / "some.npy", [3, 20, 59])
    some = load_labels(FaceSet(rendered, tmp_path / "some.npy"))
    assert some == [labels[3], labels[20], labels[59]]
    with pytest.raises(UserError, match="no labels"):
        load_labels(FaceSet(ROOT / "tests" / "photos"))


def test_styles_of_pairs(rendered):
    faces = FaceSet(rendered)
    labels = load_labels(faces)
    is_first, is_second = STYLES["light"]
    numbers, same = draw_pairs(faces, 8, 0, "light")
    for (a, b), alike in zip(numbers.reshape(-1, 2), same, strict=True):
        assert is_first(labels[a])
        assert is_second(labels[b])
        assert (faces.labels[a] == faces.labels[b]) == alike
    with pytest.raises(UserError, match="too few photos of this kind"):
        draw_pairs(faces, 6000, 0, "frontal_profile")


def test_an_encoder_with_traces_resumes_to_the_same_weights(rendered, tmp_path):
    words = ["--data", rendered, "--network", 18, "--width", 16, "--no-se", "--head", "magface", "--traces", 6, 3]
    words += ["--batch_size", 8, "--workers", 0, "--no-use_amp", "--random_erasing", 0]
    run = lambda folder, *more: train_fr.main([*map(str, words), "--output_dir", str(folder), *map(str, more)])  # noqa: E731
    run(tmp_path / "whole", "--max_steps", 3)
    run(tmp_path / "parts", "--max_steps", 2)
    run(tmp_path / "parts", "--max_steps", 3, "--resume", tmp_path / "parts")
    whole, parts = (torch.load(tmp_path / name / "model.pth", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole["state_dict"][key], parts["state_dict"][key]) for key in whole["state_dict"])
    assert whole["feature_norms"]["50%"] <= whole["feature_norms"]["75%"]
    run(tmp_path / "on", "--max_steps", 1, "--lr", 0, "--backbone", tmp_path / "whole" / "model.pth")
    on = torch.load(tmp_path / "on" / "model.pth", weights_only=True)["state_dict"]
    assert torch.equal(on["fc.weight"], whole["state_dict"]["fc.weight"])


def test_traces_learn_under_sgd_from_features_that_are_alike():
    torch.manual_seed(0)
    traces = Traces()
    optimizer = torch.optim.SGD(traces.parameters(), lr=0.1, momentum=0.9)
    features = 0.8 * torch.randn(512) + 0.6 * torch.randn(32, 512)  # (32, 512), of unit variance
    images, poses = 0.1 * torch.rand(32, 3, 112, 112), torch.randn(32, 2) * 30
    losses = []
    for _ in range(60):
        losses.append(traces(features, images, poses).mean())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]


def test_a_generator_reads_the_vectors_of_another_encoder(demo, rendered, tmp_path, capsys):
    """The other encoder has the features of the demo one, but in another order."""
    order = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    state = state_dict_of(load_file(demo.encoder), demo.encoder)
    state |= {key: state[key][order] for key in state if key.startswith(("fc.", "features.")) and state[key].ndim}
    torch.save(state, tmp_path / "other.pth")
    words = [
        demo.generator,
        tmp_path / "mine.pth",
        "--old_encoder",
        demo.encoder,
        "--new_encoder",
        tmp_path / "other.pth",
    ]
    words += ["--photos", rendered, "--ridge", 1e-3]
    change_encoder.main(list(map(str, words)))
    assert "on held-out photos" in capsys.readouterr().out

    faces = FaceSet(rendered)
    photos = [faces.image(index) for index in (1, 2)]  # every tenth is left out
    vectors = torch.from_numpy(features_of(load_face_encoder(demo.encoder), photos, flip=False))  # (2, 512)
    mask = TokenMask.from_noise(torch.rand(2, 49), 0.1, 0.7)
    with torch.inference_mode():
        wanted = load_vec2face(demo.generator)(vectors, mask).images
        got = load_vec2face(tmp_path / "mine.pth")(vectors[:, order], mask).images
    assert (wanted - got).abs().max() < 0.01
    assert load_vec2face(tmp_path / "mine.pth").trained_on["encoder_sha256"] == sha256(tmp_path / "other.pth")


def test_what_change_encoder_refuses(demo, tmp_path, capsys):
    words = [demo.generator, tmp_path / "mine.pth", "--old_encoder", demo.encoder, "--new_encoder", demo.encoder]
    with pytest.raises(SystemExit):
        change_encoder.main([*map(str, words), "--photos", str(ROOT / "tests" / "photos")])
    assert "9 photos; a fit of 512 numbers needs thousands" in capsys.readouterr().err
    assert not (tmp_path / "mine.pth").exists()


def test_masks_of_good_photos(rendered, tmp_path, capsys):
    words = ["-im", str(rendered), "-d", str(tmp_path), "--identities", "3", "--min_quality"]
    small_portion_training_mask.main([*words, "0.5", "--rest"])
    masks = [np.load(path) for path in tmp_path.glob("*.npy")]
    good = [i for i, label in enumerate(load_labels(FaceSet(rendered))) if label["quality"] >= 0.5]
    assert sorted(np.concatenate(masks)) == good
    with pytest.raises(SystemExit):
        small_portion_training_mask.main([*words, "2"])
    assert "no photo of" in capsys.readouterr().err


def test_traces_ask_for_thumbnail_and_pose():
    torch.manual_seed(0)
    traces, features = Traces(8), torch.randn(4, 8)
    images, poses = torch.rand(4, 3, 112, 112), torch.tensor([[10.0, 5.0], [-10.0, 5.0], [0.0, torch.nan], [60.0, 0.0]])
    losses = traces(features, images, poses)
    assert losses.shape == (4,)
    assert losses.isfinite().all()
    far = traces(features, images, poses * 10)
    assert (far[[0, 1, 3]] > losses[[0, 1, 3]]).all()
    losses.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in traces.parameters())


def test_poses_turn_with_mirrored_photos(rendered):
    faces = FaceSet(rendered)
    poses = [(label["yaw"], label["pitch"]) for label in load_labels(faces)]
    data = RecognitionData(faces, poses=poses)
    for index in range(8):
        item = data[0, index]
        image, pose = item.pixels[0], item.pose  # (112, 112, 3), (2,)
        photo = torch.from_numpy(faces.image(index))  # (112, 112, 3)
        yaw, pitch = poses[index]
        wanted = (yaw, pitch) if torch.equal(image, photo) else (-yaw, pitch)
        assert torch.equal(pose, torch.tensor(wanted))
        assert torch.equal(image, photo if wanted[0] == yaw else photo.flip(1))


@pytest.mark.parametrize("head", HEADS)
def test_a_head_begins_where_the_people_are(head):
    torch.manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(5, 16))
    module = make_head(head, 5, 16)
    labels = torch.arange(5)
    before = module(20 * centres, labels).mean()
    module.begin_at(centres)
    assert module(20 * centres, labels).mean() < 0.5 * before


def test_the_usual_quality_comes_from_the_file():
    assert usual_quality(None) == 27
    assert usual_quality(Flags(feature_norms=None)) == 27
    assert usual_quality(Flags(feature_norms={"50%": 20.0})) == 27
    assert usual_quality(Flags(feature_norms={"50%": 20.0, "75%": 21.5})) == 21.5


def test_less_quality_is_asked_of_turned_faces():
    model = Flags(feature_norms={"5%": 16.0, "50%": 22.0, "75%": 25.0})
    assert [usual_quality(model, yaw) for yaw in (0, 45, -45, 90)] == [22, 19, 19, 16]
    assert usual_quality(Flags(feature_norms=None), 45) == 27


def test_rotations_and_angles_are_inverse():
    angles = torch.tensor([[0.0, 0, 0], [10, 60, -5], [-20, -85, 30]])
    assert torch.allclose(torch.rad2deg(euler_angles(rotation_of(angles))), angles, atol=1e-3)
    turned = rotation_of(torch.tensor([[0.0, 40, 0]]))
    assert torch.rad2deg(geodesic_loss(rotation_of(torch.zeros(1, 3)), turned)).item() == pytest.approx(40, abs=0.01)


def test_a_pose_estimator_learns_resumes_and_is_read(rendered, tmp_path, capsys):
    words = [
        "--data",
        rendered,
        "--test",
        rendered,
        "--batch_size",
        16,
        "--workers",
        0,
        "--warmup_steps",
        2,
        "--log_every",
        2,
    ]
    run = lambda folder, *more: train_pose.main([*map(str, words), "--output_dir", str(folder), *map(str, more)])  # noqa: E731
    run(tmp_path / "whole", "--epochs", 3)
    run(tmp_path / "parts", "--epochs", 3, "--max_steps", 4)
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", "--epochs", 3, "--resume", tmp_path / "parts", "--batch_size", 15)
    assert "--batch_size is 15, the run to resume has 16" in capsys.readouterr().err
    run(tmp_path / "parts", "--epochs", 3, "--resume", tmp_path / "parts")
    whole, parts = (load_pose_estimator(tmp_path / name / "model.pth") for name in ("whole", "parts"))
    images = torch.rand(2, 3, 112, 112)
    assert torch.equal(whole(images), parts(images))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    scores = json.loads((tmp_path / "whole" / "scores.json").read_text())
    assert scores["photos"] == 60
    run(tmp_path / "whole", "--epochs", 3, "--resume", tmp_path / "whole")  # nothing left to do
    assert json.loads((tmp_path / "whole" / "scores.json").read_text()) == scores


def test_fusing_changes_nothing():
    torch.manual_seed(0)
    model = SixDRepNet(**SMALL).for_training()
    model(torch.rand(8, 3, 112, 112))  # moves the running statistics
    images = torch.rand(2, 3, 112, 112)
    before = model.eval()(images)
    assert torch.allclose(model.fuse()(images), before, atol=1e-3)


def test_small_files_are_read_like_the_large_ones(demo, tmp_path, capsys):
    shrink_weights.main([str(demo.encoder), str(tmp_path / "small.pth")])
    assert "MB" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        shrink_weights.main([str(demo.vectors), str(tmp_path / "x.pth")])
    assert not (tmp_path / "x.pth").exists()


def test_between_two_generators(demo, tmp_path, capsys):
    torch.manual_seed(0)
    before = load_file(demo.generator)
    weights = {key: value for key, value in before["model_vec2face"].items() if value.is_floating_point()}
    moved = {key: value + torch.rand_like(value) for key, value in weights.items()}
    after = before | {"model_vec2face": before["model_vec2face"] | moved}
    torch.save(after, tmp_path / "after.pth")
    words = [str(tmp_path / "after.pth"), str(tmp_path / "small.pth"), "--interpolate"]
    shrink_weights.main([*words, str(demo.generator), "--share", "0.25"])
    small = load_file(tmp_path / "small.pth")["model_vec2face"]
    for key, value in weights.items():
        expected = 0.75 * moved[key].float() + 0.25 * value.float()
        assert torch.allclose(small[key].float(), expected, rtol=2e-3, atol=1e-3), key
    assert load_vec2face(tmp_path / "small.pth")
    (tmp_path / "small.pth").unlink()
    torch.save(before | {"model_vec2face": {}}, tmp_path / "other.pth")
    for other, message in ((demo.encoder, "not a generator"), (tmp_path / "other.pth", "other names or shapes")):
        with pytest.raises(SystemExit):
            shrink_weights.main([*words, str(other)])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "small.pth").exists()


def test_high_frequencies():
    x = torch.arange(112) / 112 * 2 * torch.pi
    coarse, fine = (torch.sin(x * cycles).expand(1, 3, 112, 112) for cycles in (3, 40))
    assert high_frequency_fraction(coarse).item() < 0.01
    assert high_frequency_fraction(fine).item() > 0.99
    assert high_frequency_fraction(torch.zeros(1, 3, 112, 112)).item() == 0


class Flags:
    def __init__(self, **values):
        vars(self).update(values)


def test_demo_weights_stand_in_for_all_or_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    released = {"model_weights": "weights/vec2face_generator.pth", "id_weights": "weights/arcface-r100-glint360k.pth"}
    flags = Flags(**released, quality_weights="mine.pth")
    demo_weights.use_demo_weights(flags)
    assert flags.model_weights == str(demo_weights.DEMO / "vec2face_generator.pth")
    assert flags.quality_weights == "mine.pth"
    assert "demo models" in capsys.readouterr().out
    (tmp_path / "weights").mkdir()
    (tmp_path / released["id_weights"]).touch()
    flags = Flags(**released)
    demo_weights.use_demo_weights(flags)
    assert vars(flags) == released
    assert not capsys.readouterr().out
    assert all((demo_weights.DEMO / name).exists() for name in demo_weights.STAND_INS.values())


def test_attribute_sheet(demo, tmp_path, capsys):
    attribute_sheet.main(
        ["--attribute", "quality", "--values", "15", "1000", "--count", "2", "--max_iters", "2", *demo.models,
         "--quality_weights", str(demo.encoder), "--center_feature", str(demo.vectors), "--output", str(tmp_path / "s")]
    )  # fmt: skip
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["vectors"] == 2
    assert figures["1000"]["accepted"] == 0
    assert figures["15"]["mean"] <= figures["1000"]["mean"] + 5
    printed = capsys.readouterr().out
    assert "id similarity" in printed
    assert "accepted: quality at most 1 too low, id similarity of at least 0.7\n" in printed
    assert (figures["tolerance"], figures["lowest_id_similarity"]) == ({"quality": 1.0}, 0.7)


def test_pairs_of_a_style_need_labels(capsys):
    with pytest.raises(SystemExit):
        tester.main(["--pairs", str(ROOT / "tests" / "photos"), "--style", "light", "--save_pairs", "/dev/null"])
    assert "labels" in capsys.readouterr().err
