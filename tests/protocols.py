"""Small stand-ins for TinyFace, IJB and RFW, in their published layouts, made of the nine photos."""

import shutil

import numpy as np
from paths import PHOTOS
from scipy.io import savemat

from utils.data.alignment import TEMPLATE
from utils.evaluation.rfw import GROUPS

PEOPLE = sorted(folder.name for folder in PHOTOS.iterdir())


def copy(person, number, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(PHOTOS / PEOPLE[person] / f"{number}.jpg", target)


def make_tinyface(root):
    """Each of the first two people has a photo in the gallery and two as probes; the third one is a distractor."""
    lists = {"Gallery_Match": [], "Probe": []}
    for person in (0, 1):
        for number, folder in enumerate(("Gallery_Match", "Probe", "Probe")):
            name = f"{person + 1}_{number}.jpg"
            copy(person, number, root / "Testing_Set" / folder / name)
            lists[folder].append((name, person + 1))
    for number in range(3):
        copy(2, number, root / "Testing_Set" / "Gallery_Distractor" / f"{number}.jpg")
    for folder, short in (("Gallery_Match", "gallery_match"), ("Probe", "probe")):
        names, identities = zip(*lists[folder], strict=True)
        key = short.split("_")[0]
        cells = np.empty((len(names), 1), object)
        cells[:, 0] = names
        content = {f"{key}_set": cells, f"{key}_ids": np.array(identities)[:, None]}
        savemat(root / "Testing_Set" / f"{short}_img_ID_pairs.mat", content)
    return root


def make_ijb(root, prefix="ijbb"):
    """Two templates of each person: 10, 20, 30 of the first photo, 11, 21, 31 of two frames of a video."""
    meta = root / "meta"
    meta.mkdir(parents=True)
    described, listed, subjects = [], [], {0: [], 1: []}
    points = " ".join(f"{value:.2f}" for value in TEMPLATE.flatten())
    for person in range(3):
        for number in range(3):
            name, template = f"{3 * person + number + 1}.jpg", 10 * (person + 1) + (number > 0)
            copy(person, number, root / "loose_crop" / name)
            described.append(f"{name} {points} 0.9{number}")
            listed.append(f"{name} {template} {100 * (person + 1) + (number > 0)}")
            subjects[number > 0].append(f"{template},{person + 1},{name}")
    templates = [10, 11, 20, 21, 30, 31]
    pairs = [f"{a} {b} {int(a // 10 == b // 10)}" for a in templates for b in templates if a < b]
    names = ("G1", "G2") if prefix == "ijbc" else ("S1", "S2")
    for name, lines in (
        ("name_5pts_score.txt", described),
        ("face_tid_mid.txt", listed),
        ("template_pair_label.txt", pairs),
        (f"1N_gallery_{names[0]}.csv", ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *subjects[0][:2]]),
        (f"1N_gallery_{names[1]}.csv", ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *subjects[0][2:]]),
        ("1N_probe_mixed.csv", ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *subjects[1]]),
    ):
        (meta / f"{prefix}_{name}").write_text("\n".join(lines) + "\n")
    return root


def make_rfw(root):
    """The same three people in every group, in which the second photo of the last group is another one's."""
    for group in GROUPS:
        for person in range(3):
            for number in range(3):
                copy(person, number, root / "data" / group / f"m.{person}" / f"m.{person}_{number + 1:04d}.jpg")
        lines = [f"m.{p}\t{a}\t{b}" for p in range(3) for a, b in ((1, 2), (2, 3))]
        lines += [f"m.{p}\t{n}\tm.{(p + 1) % 3}\t{n}" for p in range(3) for n in (1, 2)]
        (root / "txts" / group).mkdir(parents=True)
        (root / "txts" / group / f"{group}_pairs.txt").write_text("\n".join(lines) + "\n")
    copy(0, 0, root / "data" / "Indian" / "m.1" / "m.1_0002.jpg")
    return root
