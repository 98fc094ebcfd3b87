"""Shared inputs: the demo models, the released architecture with filled weights, and results of finished runs.

The fixtures of runs import the scripts themselves, so that a single quick test need not wait for all of them.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded: one thread a worker, and in what it starts

import utils.runtime.threads  # noqa: F401  settings to make before torch is loaded

import numpy as np
import pytest
import torch
from filelock import FileLock
from filled import filled, manifest
from paths import PHOTOS, Demo

from models import load_face_encoder, load_pose_estimator, load_vec2face

SLOWEST = [
    "interrupted_generation", "web_page", "reserve", "training", "other_gates", "cone_noise",
    "command_line", "first_steps", "more_images", "gate", "attrop",
    "dataset_parts", "generation", "interrupted_training", "migration", "pipeline", "image_generation", "train_fr",
    "gpu_check", "batch_rows", "photo_loader", "cuda_inference", "cuda_training", "manifest", "released_training",
    "training_stop", "training_state",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    """Put the slowest files first: each worker takes a whole file at a time, and so both end at about the same time."""
    place = {f"test_{name}.py": number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


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


@pytest.fixture(scope="session")
def finished_datasets(demo, tmp_path_factory):
    """{format: folder} of datasets of an uninterrupted run."""
    from generation_runs import command

    import image_generation

    folder = tmp_path_factory.mktemp("finished")
    for format in ("folder", "lmdb"):
        words = [*command(demo), "--output_dir", folder / format, "--format", format]
        image_generation.main([str(word) for word in words])
    return {format: folder / format / "test" for format in ("folder", "lmdb")}


@pytest.fixture(scope="session")
def training_lmdb(demo, tmp_path_factory):
    """A training LMDB of the nine photos in tests/photos; beside it four.npy, a mask of the first four."""
    from training_lmdbs import prepare

    folder = tmp_path_factory.mktemp("training")
    prepare(demo, PHOTOS, folder)
    np.save(folder / "four.npy", np.arange(4))
    return folder / "faces.lmdb"


@pytest.fixture(scope="session")
def uninterrupted(demo, training_lmdb, tmp_path_factory):
    """The folder of a generator training that has run to its end."""
    import generator_training

    folder = tmp_path_factory.mktemp("run")
    generator_training.run(*generator_training.flags(demo, training_lmdb, folder, "--ema", 0.9))
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a face recognition training that has run to its end."""
    import fr_training

    folder = tmp_path_factory.mktemp("fr")
    fr_training.train(*fr_training.flags(folder))
    return folder


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """A folder of rendered photos with their labels: five identities with twelve photos each."""
    from world import render_faces

    folder = tmp_path_factory.mktemp("rendered") / "people"
    render_faces.main(["--identities", "5", "--images", "12", "--output", str(folder)])
    return folder


@pytest.fixture(scope="session")
def page_session():
    """The session behind the page with the demo models, without a server."""
    from web_session import demo_session

    return demo_session()
