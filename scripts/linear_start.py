"""Make a generator to start training from that is a linear map already, for small machines.

    python scripts/linear_start.py --data faces.lmdb --id_weights encoder.pth --output start.pth
    python vec2face.py --start_from start.pth --dropout 0 --token_weight 0 ...

The best linear map from vectors to coarse images is fitted to photos of a training LMDB and written into the weights in
front of the image decoder, so that training only has to find the image decoder. See models/linear_start.py.
"""

from contextlib import closing

from utils.cli.command import command

import numpy as np
import torch
from tqdm.auto import tqdm

from models.errors import UserError
from models.generator_file import native_checkpoint, training_vectors
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
    parser.add_argument(
        "--data", "--train_source", required=True, help="training LMDB, as scripts/prepare_training_set.py makes it"
    )
    parser.add_argument("--mask", help=".npy of the positions of the records to use (default: all)")
    parser.add_argument("--model", choices=list(PRESETS), default="vec2face_vit_tiny", help="preset of the generator")
    parser.add_argument(
        "--id_weights",
        default="weights/arcface-r100-glint360k.pth",
        help="weights of the face encoder that computed the features in the LMDB",
    )
    parser.add_argument(
        "--sigma", type=float, default=0.2, help="standard deviation of the noise that the map should tolerate"
    )
    parser.add_argument("--count", type=positive, default=4096, help="number of photos to fit, spread over all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise and of the weights that are not fitted")
    parser.add_argument("--output", required=True, help="weight file to write")
    args = parser.parse_args(argv)
    use_demo_weights(args)
    keep_freed_memory(CPU)
    torch.manual_seed(args.seed)
    generator = Vec2Face(PRESETS[args.model]).eval()
    with closing(TrainingData(args.data, args.mask)) as data:
        vectors, images = read(data, args.count)
        trained_on = training_vectors(args.id_weights, data.feature_norms())
    explained = linear_start(generator, vectors, images, args.sigma, args.seed)
    with output_file(args.output) as target:
        save_file(native_checkpoint(generator.state_dict(), args.model, trained_on=trained_on), target)
    print(f"{args.output}: a linear map that explains {explained:.0%} of the variance of {len(vectors)} photos")


def read(data: TrainingData, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(vectors (N, 512), images (N, 3, 112, 112) in [-1, 1]) of records spread over all; broken ones are left out.

    Raises UserError when none can be used.
    """
    positions = np.linspace(0, len(data) - 1, min(count, len(data))).astype(int)
    items = [data[0, int(position)] for position in tqdm(positions, desc="reading", unit="photo")]
    readable = [(vector, pixels) for pixels, vector, _, error in items if not error]
    if not readable:
        raise UserError(f"{data.path}: none of {len(items)} records is usable. scripts/inspect_dataset.py says why.")
    if len(readable) < 2 * VECTOR_SIZE:
        print(f"note: {len(readable)} photos are few for a fit of {VECTOR_SIZE} numbers; it will not generalise.")
    vectors, pixels = zip(*readable, strict=True)
    return torch.stack(vectors), to_images(torch.stack(pixels))


if __name__ == "__main__":
    main()
