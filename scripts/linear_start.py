"""A generator to begin training with that is a linear map already: for small machines.

    python scripts/linear_start.py --train_source faces.lmdb --id_weights encoder.pth --output start.pth
    python vec2face.py --start_from start.pth --dropout 0 --token_weight 0 ...

The best linear map from vectors to coarse images is fitted on photos of a training LMDB and written into the weights in
front of the image decoder, which training must still find. See models/linear_start.py.
"""

from contextlib import closing

from utils.cli.command import command

import numpy as np
import torch
from tqdm import tqdm

from models.errors import UserError
from models.generator_file import own_form, training_vectors
from models.linear_start import linear_start
from models.pixels import to_images
from models.vec2face import PRESETS, VECTOR_SIZE, Vec2Face
from models.weight_files import save_file
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import make_parser, positive
from utils.cli.outputs import output_file
from utils.data.training_data import TrainingData
from utils.runtime.device import CPU, keep_freed_memory


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--train_source", required=True, help="training LMDB, see scripts/prepare_training_set.py")
    parser.add_argument("--mask", help=".npy of record positions to use (default: all)")
    parser.add_argument("--model", choices=list(PRESETS), default="vec2face_vit_tiny", help="preset")
    parser.add_argument(
        "--id_weights", default="weights/arcface-r100-glint360k.pth", help="face encoder that made the features"
    )
    parser.add_argument("--sigma", type=float, default=0.3, help="noise on vectors that the map should bear")
    parser.add_argument("--count", type=positive, default=4096, help="photos to fit, spread over all")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the weights that are not fitted")
    parser.add_argument("--output", required=True, help="file to write")
    args = parser.parse_args(argv)
    use_demo_weights(args)
    keep_freed_memory(CPU)
    torch.manual_seed(args.seed)
    generator = Vec2Face(PRESETS[args.model]).eval()
    with closing(TrainingData(args.train_source, args.mask)) as data:
        vectors, images = read(data, args.count)
        trained_on = training_vectors(args.id_weights, data.feature_norms())
    explained = linear_start(generator, vectors, images, args.sigma, args.seed)
    with output_file(args.output) as target:
        save_file(own_form(generator.state_dict(), args.model, trained_on=trained_on), target)
    print(f"{args.output}: a linear map that explains {explained:.0%} of what the {len(vectors)} photos vary in")


def read(data, count):
    """(vectors (N, 512), images (N, 3, 112, 112)) of records spread over all; broken ones are left out."""
    chosen = np.linspace(0, len(data) - 1, min(count, len(data))).astype(int)
    items = [data[0, int(index)] for index in tqdm(chosen, desc="reading", unit="photo")]
    good = [(vector, pixels) for pixels, vector, _, error in items if not error]
    if not good:
        raise UserError(f"{data.path}: none of {len(items)} records is usable. scripts/inspect_dataset.py says why.")
    if len(good) < 2 * VECTOR_SIZE:
        print(f"note: {len(good)} photos are few for a fit of {VECTOR_SIZE} numbers; it will not carry over to others.")
    return torch.stack([vector for vector, _ in good]), to_images(torch.stack([pixels for _, pixels in good]))


if __name__ == "__main__":
    main()
