"""Make a generator read the vectors of another face encoder than the one that it was trained with.

    python scripts/change_encoder.py generator.pth mine.pth --old_id_weights arcface.pth --id_weights my.pth \\
        --data photos
    python vec2face.py --start_from mine.pth --id_weights my.pth ...

The features that two encoders compute from the same photos are nearly linear functions of each other. The function from
new to old, fitted to photos by ridge regression, goes into the generator's first layer. The result is a start for
training and does not replace it.
"""

from pathlib import Path

from utils.cli.command import command

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import paired_cosine_distances
from tqdm.auto import tqdm

from models.errors import UserError
from models.generator_file import checked_state, native_checkpoint, training_vectors
from models.iresnet import IResNet, load_face_encoder
from models.vec2face import VECTOR_SIZE, architecture_of
from models.weight_files import load_file, save_file
from utils.cli.flags import make_parser, positive
from utils.cli.outputs import output_file
from utils.data.face_set import ChosenPhotos, FaceSet
from utils.evaluation.verification import features_of
from utils.runtime.device import CPU, keep_freed_memory

HELD_OUT = 10  # every tenth photo is held out to evaluate the fit
FIRST_LAYER = "expander.to_feature."


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("source", help="weights of the generator")
    parser.add_argument("target", help="weight file to write")
    parser.add_argument(
        "--old_id_weights", "--old_encoder", required=True, help="face encoder that the generator was trained with"
    )
    parser.add_argument(
        "--id_weights", "--new_encoder", required=True, help="face encoder whose vectors the generator should read"
    )
    parser.add_argument(
        "--data", "--photos", required=True, help="photos of any people: folder of identity/photo, LMDB or .rec"
    )
    parser.add_argument("--count", type=positive, default=8192, help="number of photos to use, spread over all")
    parser.add_argument("--ridge", type=float, default=100.0, help="weight of the squared coefficients in the fit")
    args = parser.parse_args(argv)
    keep_freed_memory(CPU)
    source = load_file(args.source)
    preset, state = checked_state(source, args.source)
    faces = FaceSet(args.data, mixtures="first")
    if len(faces) < 2 * HELD_OUT:
        raise UserError(f"{args.data}: {len(faces)} photos; a fit of {VECTOR_SIZE} numbers needs thousands.")
    indices = np.linspace(0, len(faces) - 1, min(args.count, len(faces))).astype(int)
    photos = ChosenPhotos(faces, indices)
    paths = (args.old_id_weights, args.id_weights)
    old, new = (features(load_face_encoder(path), photos, Path(path).stem) for path in paths)
    fit, cosine = fit_linear(new, old, args.ridge)
    norms = np.linalg.norm(new, axis=1)
    trained_on = training_vectors(args.id_weights, (norms.mean(), norms.std()))
    architecture = architecture_of(source, preset, args.source)
    content = native_checkpoint(with_fit_in_first_layer(state, fit), preset, architecture, trained_on)
    with output_file(args.target) as target:
        save_file(content, target)
    print(f"{args.target}: cosine of the fitted features to the old ones, on held-out photos: {cosine:.3f}")


def features(encoder: IResNet, photos: ChosenPhotos, name: str) -> np.ndarray:
    """Features (N, D) of photos, under a progress bar with a name."""
    return features_of(encoder, photos, flip=False, show=lambda starts: tqdm(starts, desc=name))


def fit_linear(new: np.ndarray, old: np.ndarray, ridge: float) -> tuple[Ridge, float]:
    """The Ridge from new features (N, D) to old ones, and the mean cosine of its predictions on held-out photos."""
    held_out = np.arange(len(new)) % HELD_OUT == 0  # (N,)
    fit = Ridge(alpha=ridge).fit(new[~held_out], old[~held_out])
    return fit, float(1 - paired_cosine_distances(fit.predict(new[held_out]), old[held_out]).mean())


def with_fit_in_first_layer(state: dict[str, torch.Tensor], fit: Ridge) -> dict[str, torch.Tensor]:
    """The generator's weights with ``W (A x + a) + b`` in place of ``W x + b`` as its first layer."""
    weight, bias = (state[FIRST_LAYER + part].double() for part in ("weight", "bias"))  # (D, 512), (D,)
    matrix, offset = torch.from_numpy(fit.coef_).double(), torch.from_numpy(fit.intercept_).double()
    changed = {"weight": weight @ matrix, "bias": weight @ offset + bias}  # (D, 512), (D,)
    return state | {FIRST_LAYER + part: value.float() for part, value in changed.items()}


if __name__ == "__main__":
    main()
