"""Shared inputs: the demo models, photos of rendered people, and the released architecture with filled weights."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded: one thread a worker, and in what it starts

import utils.runtime.threads  # noqa: F401  settings to make before torch is loaded

import numpy as np
import pytest
import torch
from filelock import FileLock
from filled import filled, manifest
from processes import ROOT

from models import load_face_encoder, load_pose_estimator, load_vec2face

DEMO = ROOT / "weights" / "demo"
SLOWEST = [
    "training", "scripts", "world", "other_scripts", "pipeline", "gate", "attrop", "generation", "measure",
    "image_features",
]  # fmt: skip
PHOTOS = ROOT / "tests" / "photos"


def pytest_collection_modifyitems(items):
    """The files that take longest first: with a file a worker at a time, both workers end together."""
    place = {f"test_{name}.py": number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


class Demo:
    """Paths of the demo weights, and flags that point the scripts at them."""

    generator = DEMO / "vec2face_generator.pth"
    encoder = DEMO / "face_encoder.pth"
    vectors = DEMO / "identity_vectors.npy"
    models = ("--model_weights", str(generator), "--id_weights", str(encoder), "--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="session")
def demo():
    return Demo


@pytest.fixture(scope="session")
def generator():
    return load_vec2face(Demo.generator)


@pytest.fixture(scope="session")
def encoder():
    return load_face_encoder(Demo.encoder)


@pytest.fixture(scope="session")
def vectors():
    return np.load(Demo.vectors)


@pytest.fixture(scope="session")
def filled_files(tmp_path_factory):
    """{name: path} of weight files in the released layout, with the numbers the golden files were made with.

    Made by the first worker that asks, 1.3 GB.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # which the workers share
    paths = {name: folder / f"{name}.pth" for name in ("generator", "arcface_r100", "arcface_r50", "sixdrepnet")}
    with FileLock(folder / "filled.lock"):
        for name, path in paths.items():
            if not path.exists():
                state = filled(manifest(name))
                torch.save({"model_vec2face": state} if name == "generator" else state, path)
    return paths


@pytest.fixture(scope="session")
def base_models(filled_files):
    """The released base generator, both face encoders and 6DRepNet, loaded from files."""
    return {
        "generator": load_vec2face(filled_files["generator"]),
        "encoder": load_face_encoder(filled_files["arcface_r100"]),
        "quality": load_face_encoder(filled_files["arcface_r50"]),
        "pose": load_pose_estimator(filled_files["sixdrepnet"]),
    }


def files_of(folder):
    """{relative path: bytes} of everything in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
