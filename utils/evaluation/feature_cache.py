"""FR features of a whole dataset on disk: extracted in batches, resumed after a kill, never in memory at once."""

import json
import os
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from models.iresnet import IResNet
from utils.data.face_set import FaceSet
from utils.data.photo_loader import Unreadable, read_faces
from utils.evaluation.verification import features_of

SAVE_EVERY = 50  # batches


class Features(NamedTuple):
    """Features of the readable images of a dataset."""

    values: np.ndarray  # (n, D) float32
    indices: np.ndarray  # (n,) positions of these images in the dataset, ascending


class FeatureCache:
    """Features of the images of a FaceSet, kept in a memory-mapped .npy and a .json: 2 KB an image.

    ``path``: without an ending. Features of an earlier run are used only when the photos (names, sizes, dates, mask),
    the encoder and its precision are the same. ``done``: how many images have been looked at.
    """

    def __init__(self, path: Path | str, faces: FaceSet, encoder: IResNet, encoder_hash: str, precision: str):
        self.faces, self.encoder = faces, encoder
        self.array_path, self.state_path = Path(f"{path}.npy"), Path(f"{path}.json")
        self.array_path.parent.mkdir(parents=True, exist_ok=True)
        self.shape = (len(faces), encoder.features.num_features)
        self.key = {"photos": faces.fingerprint(), "encoder": encoder_hash, "precision": precision}
        self.done, self.unreadable = self._earlier_state()
        if not self.done:
            self.state_path.unlink(missing_ok=True)  # it does not describe the new array
            np.lib.format.open_memmap(self.array_path, "w+", np.float32, self.shape).flush()
        self.array = np.load(self.array_path, mmap_mode="r+")  # (N, D)

    def _earlier_state(self) -> tuple[int, list[int]]:
        """(images done, positions of unreadable ones) of an earlier run on the same images."""
        try:
            state = json.loads(self.state_path.read_text())
            array = np.load(self.array_path, mmap_mode="r")
            if state["key"] == self.key and (array.shape, array.dtype) == (self.shape, np.float32):
                return state["done"], state["broken"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, []

    def fill(self, batch_size: int, workers: int | None = None) -> Features:
        """Extract the features that are missing and return all. ``workers``: as in ``read_ahead``."""
        indices = self.extract(batch_size, workers)
        return Features(self.array[indices] if self.unreadable else self.array, indices)

    def extract(self, batch_size: int, workers: int | None = None) -> np.ndarray:
        """Extract the features that are missing: all are in ``array`` (N, D) then, a memory map.

        Returns the positions of the readable images, (n,); the other rows of the array mean nothing.
        """
        photos = read_faces(self.faces, range(self.done, len(self.faces)), workers, batch_size)
        bar = tqdm(total=len(self.faces), initial=self.done, unit="im", desc="features", leave=False, delay=2)
        with bar:
            for number, start in enumerate(range(self.done, len(self.faces), batch_size)):
                batch = list(islice(photos, batch_size))
                self.unreadable += [index for index, image in batch if isinstance(image, Unreadable)]
                readable = {index: image for index, image in batch if not isinstance(image, Unreadable)}
                if readable:
                    features = features_of(self.encoder, list(readable.values()), batch_size, flip=False)
                    self.array[list(readable)] = features  # (n, D)
                self.done = min(start + batch_size, len(self.faces))
                bar.update(self.done - start)
                if number % SAVE_EVERY == SAVE_EVERY - 1 or self.done == len(self.faces):
                    self._save()
        return np.setdiff1d(np.arange(len(self.faces)), self.unreadable)

    def _save(self) -> None:
        self.array.flush()
        temporary = self.state_path.with_name(self.state_path.name + ".next")
        temporary.write_text(json.dumps({"key": self.key, "done": self.done, "broken": self.unreadable}))
        os.replace(temporary, self.state_path)
