"""Let a generator read the vectors of another face encoder than the one it was trained with.

    python scripts/change_encoder.py generator.pth mine.pth --old_encoder arcface.pth --new_encoder my.pth --photos DIR
    python vec2face.py --start_from mine.pth --id_weights my.pth ...

Features of two encoders of the same photos are nearly linear functions of each other. The function from new to old,
fitted on photos (ridge regression), goes into the generator's first layer. A start for training, no replacement.
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import paired_cosine_distances
from tqdm import tqdm

from models.errors import UserError
from models.generator_file import checked_state, own_form, training_vectors
from models.iresnet import load_face_encoder
from models.vec2face import VECTOR_SIZE, architecture_of
from models.weight_files import load_file, save_file
from utils.cli.flags import make_parser, positive
from utils.cli.outputs import output_file
from utils.data.face_set import FaceSet
from utils.evaluation.verification import features_of
from utils.runtime.device import CPU, keep_freed_memory

HELD_OUT = 10  # every tenth photo tells how well the fit does on others
FIRST_LAYER = "expander.to_feature."


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("source", help="generator")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--old_encoder", required=True, help="face encoder the generator was trained with")
    parser.add_argument("--new_encoder", required=True, help="face encoder whose vectors it should read")
    parser.add_argument("--photos", required=True, help="a folder of person/photo, or an LMDB; of any people")
    parser.add_argument("--count", type=positive, default=8192, help="photos to use, spread over all")
    parser.add_argument("--ridge", type=float, default=100.0, help="weight of the squared coefficients in the fit")
    args = parser.parse_args(argv)
    keep_freed_memory(CPU)
    source = load_file(args.source)
    preset, state = checked_state(source, args.source)
    faces = FaceSet(args.photos)
    if len(faces) < 2 * HELD_OUT:
        raise UserError(f"{args.photos}: {len(faces)} photos; a fit of {VECTOR_SIZE} numbers needs thousands.")
    chosen = np.linspace(0, len(faces) - 1, min(args.count, len(faces))).astype(int)
    photos = Photos(faces, chosen)
    old, new = (features(load_face_encoder(path), photos, path) for path in (args.old_encoder, args.new_encoder))
    fit, cosine = fit_linear(new, old, args.ridge)
    norms = np.linalg.norm(new, axis=1)
    trained_on = training_vectors(args.new_encoder, (norms.mean(), norms.std()))
    architecture = architecture_of(source, preset, args.source)
    content = own_form(with_fit_in_first_layer(state, fit), preset, architecture, trained_on)
    with output_file(args.target) as target:
        save_file(content, target)
    print(f"{args.target}: cosine of the old features to the fitted ones, on photos left out: {cosine:.3f}")


class Photos:
    """The chosen photos of a FaceSet, as a sequence that reads one at a time."""

    def __init__(self, faces, chosen):
        self.faces, self.chosen = faces, chosen

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, index):
        try:
            return self.faces.image(int(self.chosen[index]))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.faces.name(int(self.chosen[index]))}: {error}") from error


def features(encoder, photos, name):
    return features_of(encoder, photos, flip=False, show=lambda starts: tqdm(starts, desc=Path(name).stem))


def fit_linear(new, old, ridge):
    """The Ridge from new features (N, 512) to old ones, and its mean cosine to them on photos that it did not see."""
    unseen = np.arange(len(new)) % HELD_OUT == 0  # (N,)
    fit = Ridge(alpha=ridge).fit(new[~unseen], old[~unseen])
    return fit, float(1 - paired_cosine_distances(fit.predict(new[unseen]), old[unseen]).mean())


def with_fit_in_first_layer(state, fit):
    """The generator's weights with ``W (A x + a) + b`` in the place of ``W x + b`` as its first layer."""
    weight, bias = (state[FIRST_LAYER + part].double() for part in ("weight", "bias"))  # (D, 512), (D,)
    matrix, offset = torch.from_numpy(fit.coef_).double(), torch.from_numpy(fit.intercept_).double()
    changed = {"weight": weight @ matrix, "bias": weight @ offset + bias}  # (D, 512), (D,)
    return state | {FIRST_LAYER + part: value.float() for part, value in changed.items()}


if __name__ == "__main__":
    main()
