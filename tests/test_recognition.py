"""train_fr.py and test_fr.py end to end, their losses, and the protocol."""

import json
import lzma
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import cv2
import msgpack
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PHOTOS, ROOT, run_script
from hypothesis import given
from hypothesis import strategies as st
from test_training_data import write_lmdb

import image_generation
from models.heads import HEADS, SCALE, make_head
from models.iresnet import IResNet, load_face_encoder
from scripts import test_fr as tester
from scripts import train_fr
from utils.errors import UserError
from utils.face_set import FaceSet, label_of
from utils.fr_data import RecognitionData
from utils.verification import best_threshold, equal_error_rate, pair_similarities, verify
from utils.verification_set import draw_pairs, load_pairs, save_pairs


def flags(folder, *more):
    """Two epochs of four steps on the nine photos, in fp32."""
    return [
        "--data", PHOTOS, "--network", 18, "--width", 16, "--no-se", "--batch_size", 2, "--epochs", 2, "--lr", 0.01,
        "--milestones", 2, "--workers", 0, "--log_every", 2, "--no-use_amp", "--device", "cpu", "--output_dir", folder,
        *more,
    ]  # fmt: skip


def train(*words):
    train_fr.main([str(word) for word in words])


def weights(folder):
    return torch.load(folder / "checkpoint-last.pth", weights_only=True)


def assert_same(one, two):
    for part in ("backbone", "head"):
        for key, value in one[part].items():
            assert torch.equal(value, two[part][key]), f"{part} {key}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fr")
    train(*flags(folder))
    return folder


# Heads


def test_arcface_and_cosface_are_their_formulas():
    torch.manual_seed(0)
    features, labels = torch.randn(6, 512), torch.tensor([0, 1, 2, 3, 4, 0])
    for name, changed in (("arcface", lambda c: (c.acos() + 0.5).cos()), ("cosface", lambda c: c - 0.35)):
        head = make_head(name, 5)
        cosines = F.normalize(features) @ F.normalize(head.loss.W.detach(), dim=0)
        cosines[range(6), labels] = changed(cosines[range(6), labels])
        expected = F.cross_entropy(SCALE * cosines, labels, reduction="none")
        assert torch.allclose(head(features, labels), expected, atol=1e-3), name


def test_magface_margin_and_regulariser():
    torch.manual_seed(0)
    head, labels = make_head("magface", 4), torch.tensor([0, 1, 2])
    features = F.normalize(torch.randn(3, 512)) * torch.tensor([[5.0], [60.0], [200.0]])  # below, within, above bounds
    norms, margins = torch.tensor([10.0, 60.0, 110.0]), torch.tensor([0.45, 0.625, 0.8])
    cosines = F.normalize(features) @ F.normalize(head.directions.detach()).T
    cosines[range(3), labels] = (cosines[range(3), labels].acos() + margins).cos()
    expected = F.cross_entropy(SCALE * cosines, labels, reduction="none") + 20 * (norms / 110**2 + 1 / norms)
    assert torch.allclose(head(features, labels), expected, atol=1e-3)


def test_adaface_moves_the_margin_with_the_norm():
    torch.manual_seed(0)
    head, labels = make_head("adaface", 4).eval(), torch.tensor([0, 1, 2])
    head.mean.fill_(20.0)
    head.deviation.fill_(10.0)
    features = F.normalize(torch.randn(3, 512)) * torch.tensor([[5.0], [20.0], [80.0]])
    quality = ((torch.tensor([5.0, 20.0, 80.0]) - 20) / 10.001 * 0.333).clamp(-1, 1)
    cosines = F.normalize(features) @ F.normalize(head.directions.detach()).T
    own = (cosines[range(3), labels].acos() - 0.4 * quality).cos() - 0.4 * (1 + quality)
    cosines[range(3), labels] = own
    assert torch.allclose(head(features, labels), F.cross_entropy(SCALE * cosines, labels, reduction="none"), atol=1e-3)
    head.train()(features, labels)
    assert head.mean != 20.0


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_finite_gradients_at_the_ends_of_the_cosine(name):
    head = make_head(name, 3)
    directions = head.loss.W.T if hasattr(head, "loss") else head.directions
    features = torch.cat([directions.detach()[:1], -directions.detach()[:1]]).mul(20).requires_grad_()
    head(features, torch.tensor([0, 0])).sum().backward()
    assert features.grad.isfinite().all()


# Training


def test_what_training_writes(trained):
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert [round(line["lr"], 6) for line in lines] == [0.01, 0.01, 0.001, 0.001]  # a tenth from epoch 2 on
    encoder = load_face_encoder(trained / "model.pth")
    assert encoder(torch.zeros(1, 3, 112, 112)).shape == (1, 512)
    assert torch.load(trained / "model.pth", weights_only=True)["feature_norms"]["50%"] > 0
    load_face_encoder(trained / "checkpoint-last.pth")


def test_generation_tells_a_quality_the_model_never_gives(trained, demo, tmp_path, capsys):
    """The quality model that training wrote knows the norms of its photos."""
    words = ["--center_feature", demo.vectors, "--quality_weights", trained / "model.pth", "--start_end", "0:1"]
    words += ["--example", 1, "--batch_size", 1, "--max_iters", 1, "--output_dir", tmp_path, *demo.models]
    for quality, told in ((1000, True), (1, False)):
        name = f"quality{quality}"
        image_generation.main([str(word) for word in [*words, "--image_quality", quality, "--name", name]])
        assert ("more than 95 % of the photos" in capsys.readouterr().out) == told


def test_no_weight_decay_on_batch_norm():
    args = train_fr.fr_parser().parse_args(["--data", "x", "--network", "18", "--width", "16"])
    model = train_fr.make_model(args, 3)
    decayed, free = train_fr.make_optimizer(model, args).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0)
    norms = sum(isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) for m in model.modules())
    assert len(free["params"]) == 2 * norms - 1  # the weight of the last one is fixed
    assert sum(len(group["params"]) for group in (decayed, free)) == sum(p.requires_grad for p in model.parameters())


def test_the_published_recipe_is_the_default():
    args = train_fr.fr_parser().parse_args(["--data", "x"])
    assert (args.network, args.se, args.batch_size, args.lr, args.momentum) == (50, True, 128, 0.1, 0.9)
    assert (args.weight_decay, args.clip_grad, args.epochs, args.milestones) == (5e-4, 5, 26, [12, 20, 24])
    rates = [round(train_fr.learning_rate(epoch, args), 6) for epoch in (0, 10.9, 11, 18.9, 19, 23)]
    assert rates == [0.1, 0.1, 0.01, 0.01, 0.001, 0.0001]


def test_killed_and_resumed_bitwise(trained, tmp_path):
    words = list(map(str, flags(tmp_path, "--save_every", 1)))
    process = subprocess.Popen([sys.executable, "scripts/train_fr.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "checkpoint-last.pth").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < weights(tmp_path)["step"] < 8
    train(*words, "--resume", tmp_path)
    assert_same(weights(tmp_path), weights(trained))


def test_two_ranks_resume_bitwise(tmp_path):
    for folder in ("whole", "parts"):
        words = flags(tmp_path / folder, "--batch_size", 2)
        if folder == "parts":
            run_script("scripts/train_fr.py", *words, "--max_steps", 3, torchrun=2)
        run_script("scripts/train_fr.py", *words, "--resume", tmp_path / folder, torchrun=2)
    assert weights(tmp_path / "whole")["step"] == 4
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_se_networks_and_other_heads_train_and_load(tmp_path):
    for head in ("magface", "adaface", "cosface"):
        folder = tmp_path / head
        train(*flags(folder, "--se", "--head", head, "--max_steps", 1, "--use_amp"))
        encoder = load_face_encoder(folder / "model.pth")
        assert encoder.layer2[0].attn is not None
        assert encoder.layer2[1].attn is None


def test_the_se_shortcut_is_fused_without_change():
    torch.manual_seed(0)
    model = IResNet((1, 1, 1, 1), (16, 16, 32, 32), se=True).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        before = model(images)
        assert torch.allclose(model.for_inference()(images), before, atol=1e-4)


def test_it_learns_three_people(tmp_path):
    words = flags(tmp_path, "--epochs", 8, "--milestones", 7, "--augmentation", 0, "--random_erasing", 0, "--lr", 0.05)
    train(*words, "--batch_size", 9)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]


# Mixtures


def test_identity_mixup_labels_follow_the_names_of_people(tmp_path):
    faces = FaceSet(PHOTOS)
    for row, source in ((0, "person1"), (2, "person4")):
        shutil.copytree(PHOTOS / source, tmp_path / f"{row:06d}")
    rows = np.array([[0, 2, 0.7], [1, 2, 0.5], [2, 1, 0.9]])
    data = RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows)
    assert len(data) == 15
    assert data[0, 0][1:4] == (0, 0, 1.0)
    assert data[0, 9][1:4] == (0, 2, 0.7)
    assert data[0, 14][1:4] == (2, 1, 0.9)
    with pytest.raises(UserError, match="row in --mixed_labels"):
        RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows[:2])
    with pytest.raises(UserError, match="people go to 2"):
        RecognitionData(faces, mixed=FaceSet(tmp_path), mixture_labels=rows + 1)


def test_domain_mixup_blends_a_real_photo_in():
    faces, real = FaceSet(PHOTOS), FaceSet(PHOTOS)
    data = RecognitionData(faces, seed=1, real=real, domain_range=(0.6, 0.9))
    assert data.class_count == 6
    image, first, second, share, _ = data[3, 4]
    assert first == faces.labels[4]
    assert 3 <= second < 6
    assert 0.6 <= share <= 0.9
    assert torch.equal(image, data[3, 4][0])

    def candidates(face_set, labels):
        for index in np.flatnonzero(face_set.labels == labels):
            photo = torch.from_numpy(face_set.image(int(index))).permute(2, 0, 1) / 127.5 - 1
            yield from (photo, photo.flip(2))  # either may be mirrored

    one = torch.from_numpy(faces.image(4)).permute(2, 0, 1) / 127.5 - 1
    blends = [share * a + (1 - share) * b for a in (one, one.flip(2)) for b in candidates(real, second - 3)]
    assert min(float((image - blend).abs().max()) for blend in blends) < 1e-5


def test_a_mixture_loss_is_the_mixture_of_losses():
    torch.manual_seed(0)
    args = train_fr.fr_parser().parse_args(["--data", "x", "--network", "18", "--width", "16", "--no-se"])
    model = train_fr.make_model(args, 4).eval()
    images, a, b = torch.rand(2, 3, 112, 112), torch.tensor([0, 1]), torch.tensor([2, 3])
    one, two = (model(images, x, x, torch.ones(2))[0] for x in (a, b))
    mixed, _ = model(images, a, b, torch.tensor([0.75, 1.0]))
    assert torch.allclose(mixed, torch.stack([0.75 * one[0] + 0.25 * two[0], one[1]]), rtol=1e-4)


# Verification


@given(st.integers(0, 10_000), st.integers(2, 60))
def test_best_threshold_is_best(seed, count):
    rng = np.random.default_rng(seed)
    similarities, same = rng.integers(-3, 4, count) / 3, rng.random(count) < 0.5  # many equal values
    threshold, accuracy = best_threshold(similarities, same)
    assert ((similarities >= threshold) == same).mean() == pytest.approx(accuracy)
    tried = [*(similarities + 1e-9), *(similarities - 1e-9)]
    assert accuracy >= max(((similarities >= t) == same).mean() for t in tried) - 1e-12


def test_the_threshold_of_a_fold_comes_from_the_others():
    """A set whose folds disagree: each fold's own best threshold would give 1.0."""
    similarities = np.concatenate([np.tile([0.9, 0.6], 50), np.tile([0.4, 0.1], 50)])
    same = np.tile([True, False], 100)
    result = verify(similarities, same)
    assert result["accuracy"] < 0.9
    assert verify(np.tile([0.9, 0.1], 100), same)["accuracy"] == 1
    assert verify(np.tile([0.9, 0.1], 100), same)["tpr"] == {"0.0001": None, "0.001": None, "0.01": 1.0, "0.1": 1.0}


def test_equal_error_rate():
    assert equal_error_rate(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 0
    assert equal_error_rate(np.array([0.9, 0.1]), np.array([0.8, 0.2])) == 0.5


def test_pairs_of_a_folder_are_right_and_reproducible():
    faces = FaceSet(PHOTOS)
    numbers, same = draw_pairs(faces, 12, 3)
    pairs = numbers.reshape(-1, 2)
    assert same.sum() == 6
    assert ((faces.labels[pairs[:, 0]] == faces.labels[pairs[:, 1]]) == same).all()
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == 12
    assert np.array_equal(numbers, draw_pairs(faces, 12, 3)[0])


def test_all_forms_of_a_set_give_the_same_figures(demo, tmp_path, capsys):
    faces = FaceSet(PHOTOS)
    numbers, same = draw_pairs(faces, 12, 0)
    encoded = [faces.read(i) for i in numbers]
    save_pairs(tmp_path / "a.npz", encoded, same)
    pickle.dump((encoded, same.tolist()), open(tmp_path / "b.bin", "wb"))  # noqa: SIM115
    with lzma.open(tmp_path / "c.xz", "wb") as file:
        pickle.dump(([np.frombuffer(data, np.uint8) for data in encoded], list(same)), file)
    images = np.stack([faces.image(i) for i in numbers])
    np.save(tmp_path / "d.npy", images)
    (tmp_path / "issame.txt").write_text("\n".join(map(str, same)))
    np.save(tmp_path / "e.npy", (images.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))
    (tmp_path / "e_issame.txt").write_text("\n".join(str(int(value)) for value in same))
    words = ["--weights", demo.encoder, "--data_dir", tmp_path, "--precision", "fp32", "--device", "cpu"]
    tester.main([str(w) for w in [*words, "--sets", *"abcde", "--output", tmp_path / "r.json"]])
    results = json.loads((tmp_path / "r.json").read_text())
    assert len(results) == 5
    assert all(result == results["a"] for result in results.values())
    assert "average" in capsys.readouterr().out


def test_an_old_pickle_with_byte_strings(tmp_path):
    """InsightFace's .bin were written by Python 2: the images are its strings."""
    data = (PHOTOS / "person1" / "0.jpg").read_bytes()
    string = b"T" + len(data).to_bytes(4, "little") + data  # BINSTRING, protocol 1
    old = b"(" + b"(" + string + string + string + string + b"l" + b"(I01\nI00\nl" + b"t."
    (tmp_path / "lfw.bin").write_bytes(old)
    pairs = load_pairs(tmp_path / "lfw.bin")
    assert pairs.same.tolist() == [True, False]
    assert pairs.images[0].shape == (112, 112, 3)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile_code_ran",)


def test_bad_verification_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = (PHOTOS / "person1" / "0.jpg").read_bytes()
    cases = {
        "hostile.bin": (pickle.dumps(([data] * 4, [Hostile(), True])), "refused"),
        "odd.bin": (pickle.dumps(([data] * 3, [True, False])), "3 images for 2 pairs"),
        "one_kind.bin": (pickle.dumps(([data] * 4, [True, True])), "pairs of one person and pairs of two"),
        "truncated.bin": (pickle.dumps(([data] * 4, [True, False]))[:-500], "truncated|damaged"),
        "broken.bin": (pickle.dumps(([data[:900]] * 4, [True, False])), "truncated JPEG"),
        "noise.xz": (b"nothing", "damaged"),
        "noise.npz": (b"nothing", "damaged"),
        "other.txt": (b"", "ends in"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_pairs(tmp_path / name)
    assert not (tmp_path / "hostile_code_ran").exists()
    np.save(tmp_path / "alone.npy", np.zeros((4, 112, 112, 3), np.uint8))
    with pytest.raises(UserError, match=r"needs issame.txt"):
        load_pairs(tmp_path / "alone.npy")
    (tmp_path / "issame.txt").write_text("True\nmaybe\n")
    with pytest.raises(UserError, match="not 'maybe'"):
        load_pairs(tmp_path / "alone.npy")


# Face sets


def fr_lmdb(path, labels, classes=None, image=None):
    image = image or (PHOTOS / "person1" / "0.jpg").read_bytes()
    records = {str(i).encode(): msgpack.packb((image, label)) for i, label in enumerate(labels)}
    count = max(labels) + 1 if classes is None else classes
    return write_lmdb(path, records | {b"__len__": msgpack.packb(len(labels)), b"__classnum__": msgpack.packb(count)})


def test_folder_and_lmdb_are_the_same_set(tmp_path):
    folder = FaceSet(PHOTOS)
    records = {str(i).encode(): msgpack.packb((folder.read(i), int(folder.labels[i]))) for i in range(len(folder))}
    path = write_lmdb(tmp_path / "x.lmdb", records | {b"__len__": msgpack.packb(9), b"__classnum__": msgpack.packb(3)})
    for source in (path, tmp_path):  # a generated dataset has its LMDB inside
        faces = FaceSet(source)
        assert np.array_equal(faces.labels, folder.labels)
        assert all(faces.read(i) == folder.read(i) for i in range(9))
        faces.close()


@given(st.binary(max_size=70_000), st.integers(0, 2**31), st.booleans())
def test_labels_are_read_without_the_image(image, label, with_feature):
    record = (image, b"feature", label) if with_feature else (image, label)
    assert label_of(memoryview(msgpack.packb(record))) == label


def test_a_mask_leaves_people_out(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([0, 1, 7, 8]))
    faces = FaceSet(PHOTOS, tmp_path / "mask.npy")
    assert faces.labels.tolist() == [0, 0, 1, 1]
    assert faces.people == ["person1", "person4"]


def test_bad_face_sets(tmp_path):
    np.save(tmp_path / "far.npy", np.array([0, 99]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.lmdb").write_text("nothing")
    for path, mask, message in (
        (fr_lmdb(tmp_path / "gap.lmdb", [0, 2]), None, "no image of person 1"),
        (fr_lmdb(tmp_path / "from1.lmdb", [1, 2]), None, "no image of person 0"),
        (fr_lmdb(tmp_path / "none.lmdb", [0, 1], classes=3), None, "no image of person 2"),
        (fr_lmdb(tmp_path / "more.lmdb", [0, 1, 2], classes=2), None, "labels must be 0 to C-1"),
        (PHOTOS, tmp_path / "far.npy", "positions 0 to 99"),
        (tmp_path / "empty", None, "no photos"),
        (tmp_path / "nowhere", None, "no such folder"),
        (tmp_path / "text.lmdb", None, "not an LMDB"),
    ):
        with pytest.raises(UserError, match=message):
            FaceSet(path, mask)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere"], "no such folder"),
        (["--batch_size", 10], "9 photos are fewer"),
        (["--mixed_data", "x"], "go together"),
        (["--domain_mixup", "0.9"], "LOW:HIGH"),
        (["--domain_mixup", "0.9:0.1"], "0 <= LOW"),
        (["--sets", "lfw"], "no verification set called lfw"),
        (["--resume", "nowhere"], "no such file or folder"),
        (["--resume", "weights/demo/face_encoder.pth"], "not a checkpoint of this script"),
        (["--output_dir", "README.md"], "cannot write here"),
        (["--lr", 1e30], "the loss is"),
    ],
)
def test_bad_training_input(more, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        train(*flags(tmp_path, *more))
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_one_person_and_single_images(tmp_path, capsys):
    shutil.copytree(PHOTOS / "person1", tmp_path / "one" / "person1")
    with pytest.raises(SystemExit):
        train(*flags(tmp_path / "run", "--data", tmp_path / "one"))
    assert "one person only" in capsys.readouterr().err
    for person in ("person1", "person3"):
        (tmp_path / "single" / person).mkdir(parents=True)
        shutil.copy(PHOTOS / person / "0.jpg", tmp_path / "single" / person)
    with pytest.raises(UserError, match="one of them with two photos"):
        draw_pairs(FaceSet(tmp_path / "single"), 2, 0)
    train(*flags(tmp_path / "run", "--data", tmp_path / "single", "--epochs", 1))  # that is no error


def test_broken_photos_are_skipped_up_to_the_limit(tmp_path, capsys):
    shutil.copytree(PHOTOS, tmp_path / "photos")
    cv2.imwrite(str(tmp_path / "photos" / "person1" / "9.png"), np.zeros((50, 40), np.uint8))  # grey, another size
    (tmp_path / "photos" / "person1" / "1.jpg").write_bytes(b"broken")
    train(*flags(tmp_path / "a", "--data", tmp_path / "photos", "--batch_size", 10, "--epochs", 1))
    assert "1.jpg: not an image" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train(*flags(tmp_path / "b", "--data", tmp_path / "photos", "--batch_size", 10, "--max_bad_records", 0))
    assert "more than --max_bad_records 0" in capsys.readouterr().err


def test_features_of_demo_people_verify(encoder):
    from utils.verification import features_of

    faces = FaceSet(PHOTOS)
    numbers, same = draw_pairs(faces, 12, 0)
    features = features_of(encoder, [faces.image(i) for i in numbers])
    assert verify(pair_similarities(features), same)["accuracy"] > 0.9
