"""How well a generator redraws photos it never saw.

    python scripts/evaluate_generator.py --model_weights weights/demo/vec2face_generator.pth \\
        --id_weights weights/demo/face_encoder.pth --data lmdb_dataset/unseen.lmdb

PSNR and SSIM of image against photo, and the similarity of the image's FR feature to the photo's (the FR model of
--id_weights; one the generator was not trained with is the stricter judge). Writes photos over reconstructions.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
from contextlib import closing

import numpy as np
import torch
from pytorch_msssim import ssim
from tqdm import tqdm

from models.iresnet import load_face_encoder
from models.vec2face import TokenMask, load_vec2face
from utils.cli import add_device_flags, command, make_parser, positive
from utils.device import PRECISIONS, keep_freed_memory, resolve_device, resolve_precision
from utils.generation import to_pixels
from utils.images import contact_sheet, encode_jpeg
from utils.sampling import MaskRatios, image_stream
from utils.training_data import TrainingData, make_loader

SHEET_COLUMNS = 12


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="training LMDB of photos the generator did not see")
    parser.add_argument("--model_weights", required=True, help="generator")
    parser.add_argument("--id_weights", required=True, help="face encoder that judges")
    parser.add_argument("--count", type=positive, help="photos to use, spread over the data (default: all)")
    parser.add_argument("--batch_size", type=positive, default=32, help="photos at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--output", default="evaluation", help="NAME.json and NAME.jpg are written")
    add_device_flags(parser)
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    keep_freed_memory()
    dtype = PRECISIONS[resolve_precision(args.precision, device)]
    generator = load_vec2face(args.model_weights, device, dtype)
    encoder = load_face_encoder(args.id_weights, device, dtype)
    with closing(TrainingData(args.data)) as data:
        positions = np.linspace(0, len(data) - 1, min(args.count or len(data), len(data))).astype(int)
        scores, pairs = evaluate(generator, encoder, data, positions, args)
    Path(f"{args.output}.json").write_text(json.dumps(scores, indent=2) + "\n")
    Path(f"{args.output}.jpg").write_bytes(encode_jpeg(contact_sheet(pairs), 90))
    for name, value in scores.items():
        print(f"{name}: {value}")
    print(f"photos over reconstructions: {args.output}.jpg")


@torch.inference_mode()
def evaluate(generator, encoder, data, positions, args):
    """({name: score}, [photos, reconstructions]) of the records at ``positions``."""
    device, masks = next(generator.parameters()).device, MaskRatios()
    batches = [
        [(0, int(p)) for p in positions[i : i + args.batch_size]] for i in range(0, len(positions), args.batch_size)
    ]
    psnr, structure, similarity, pairs = [], [], [], None
    for real, vectors, keys, _ in tqdm(make_loader(data, batches, 0, False), unit="batch"):
        noise, rates = zip(*(masks.draw(image_stream(args.seed, int(key), 0)) for key in keys), strict=True)
        mask = TokenMask.from_noise(torch.tensor(np.stack(noise)), masks.minimum, torch.tensor(rates)).to(device)
        real, vectors = real.to(device), vectors.to(device)  # (B, 3, 112, 112), (B, 512)
        fake = generator(vectors, mask).images.clip(-1, 1)
        psnr += (10 * torch.log10(4 / (fake - real).square().mean((1, 2, 3)))).tolist()
        structure += ssim((fake + 1) / 2, (real + 1) / 2, data_range=1, size_average=False).tolist()
        similarity += torch.cosine_similarity(encoder(fake), vectors).tolist()
        pairs = pairs or [list(to_pixels(x[:SHEET_COLUMNS]).cpu().numpy()) for x in (real, fake)]
    return {
        "photos": len(psnr),
        "psnr": round(float(np.mean(psnr)), 3),
        "ssim": round(float(np.mean(structure)), 4),
        "id_similarity_mean": round(float(np.mean(similarity)), 4),
        "id_similarity_5th_percentile": round(float(np.percentile(similarity, 5)), 4),
    }, pairs


if __name__ == "__main__":
    main()
