"""FR features of a whole dataset on disk: filled in batches, resumed after a kill, never in memory at once."""

import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.data.photo_loader import Unreadable, read_faces
from utils.evaluation.verification import features_of

SAVE_EVERY = 50  # batches


class FeatureCache:
    """``features`` (n, D) float32 of the readable images of a FaceSet and ``good`` (n,), which images these are.

    ``path``: without an ending; a memory-mapped .npy and a .json are kept there, 2 KB an image. Features are used
    again only when the photos (names, sizes, dates, mask), the encoder and its precision are the same.
    """

    def __init__(self, path, faces, encoder, encoder_hash, precision):
        self.faces, self.encoder = faces, encoder
        self.array_path, self.state_path = Path(f"{path}.npy"), Path(f"{path}.json")
        self.array_path.parent.mkdir(parents=True, exist_ok=True)
        self.shape = (len(faces), encoder.features.num_features)
        self.key = {"photos": faces.fingerprint(), "encoder": encoder_hash, "precision": precision}
        self.done, self.broken = self._earlier()
        if not self.done:
            self.state_path.unlink(missing_ok=True)  # what it says is not so of the new array
            np.lib.format.open_memmap(self.array_path, "w+", np.float32, self.shape).flush()
        self.array = np.load(self.array_path, mmap_mode="r+")

    def _earlier(self):
        """(images done, broken ones) of an earlier run on the same images."""
        try:
            state = json.loads(self.state_path.read_text())
            array = np.load(self.array_path, mmap_mode="r")
            if state["key"] == self.key and (array.shape, array.dtype) == (self.shape, np.float32):
                return state["done"], state["broken"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0, []

    def fill(self, batch_size, workers=None):
        """Extract what is missing; unreadable images are left out. ``workers``: as in ``read_ahead``."""
        photos = read_faces(self.faces, range(self.done, len(self.faces)), workers, batch_size)
        bar = tqdm(total=len(self.faces), initial=self.done, unit="im", desc="features", leave=False, delay=2)
        with bar:
            for number, start in enumerate(range(self.done, len(self.faces), batch_size)):
                batch = list(islice(photos, batch_size))
                self.broken += [index for index, image in batch if isinstance(image, Unreadable)]
                good = {index: image for index, image in batch if not isinstance(image, Unreadable)}
                if good:
                    features = features_of(self.encoder, list(good.values()), batch_size, flip=False)
                    self.array[list(good)] = features  # (n, D)
                self.done = min(start + batch_size, len(self.faces))
                bar.update(self.done - start)
                if number % SAVE_EVERY == SAVE_EVERY - 1 or self.done == len(self.faces):
                    self._save()
        self.good = np.setdiff1d(np.arange(len(self.faces)), self.broken)
        self.features = self.array if not self.broken else self.array[self.good]

    def _save(self):
        self.array.flush()
        temporary = self.state_path.with_name(self.state_path.name + ".next")
        temporary.write_text(json.dumps({"key": self.key, "done": self.done, "broken": self.broken}))
        os.replace(temporary, self.state_path)
