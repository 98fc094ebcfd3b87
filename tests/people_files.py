"""Files of identity vectors: those of a dataset, and others in reserve."""

import numpy as np


def write_people(folder, vectors, people, reserve):
    """Write ``folder``/people.npy with the first vectors, and reserve.npy with some from row 100; the folder."""
    np.save(folder / "people.npy", vectors[:people])
    np.save(folder / "reserve.npy", vectors[100 : 100 + reserve])
    return folder
