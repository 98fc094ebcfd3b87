"""Train an adapter for landmark control (Vec2Face+): LoRA and a landmark encoder on a frozen generator.

    torchrun --nproc_per_node=4 scripts/train_pose_control.py --data WebFace4M/WebFace4M_with_landmarks.lmdb \\
        --model_weights vec2face_plus/main_model.pth --output_dir pose_control
    python scripts/train_pose_control.py --data faces.lmdb --landmarks rendered/labels.jsonl --vectors identity \\
        --condition added --landmark_width 8 --lpips_weights none --output_dir pose_control

The photos are reconstructed from vectors and from pictures of their landmarks. --data is a training LMDB of
scripts/prepare_training_set.py, or a published one with landmark pictures. The result is OUTPUT_DIR/model.pth, for the
--landmark_adapter of pose_image_generation.py. To resume a run that was killed, or stopped with Ctrl-C, which saves a
checkpoint first, add --resume OUTPUT_DIR to the same command.
"""

import contextlib
import math
from collections.abc import Sequence
from functools import partial

from utils.cli.command import command

import torch
import torch.nn as nn

from models.errors import UserError
from models.iresnet import load_face_encoder
from models.losses import GeneratorLoss
from models.masking import MaskRates
from models.perceptual import load_perceptual
from models.pixels import to_images
from models.pose_control import ALPHA, CONDITIONS, RANK, STEM_WIDTH, add_adapter
from models.transfer import upload
from models.vec2face import PRESETS, load_vec2face
from models.weight_files import save_file, sha256
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import (
    Parser,
    add_amp_flags,
    add_compile_flag,
    add_training_run_flags,
    make_parser,
    positive,
)
from utils.cli.training_flags import (
    add_length_flags,
    add_loss_network_flags,
    add_mask_ratio_flags,
    add_reading_flags,
)
from utils.data.landmark_data import VECTORS, LandmarkData, LandmarkItem, picture_source
from utils.data.loader import EpochBatches, make_loader
from utils.data.training_data import TrainingData
from utils.training.adapter_state import AdapterState
from utils.training.broken_items import BrokenItems
from utils.training.folder import check_output_folder
from utils.training.loop import Hyperparameters, train_network
from utils.training.masks import draw_mask, mask_rates_of
from utils.training.parallel import parallel
from utils.training.resuming import check_agreement, load_checkpoint, run_description
from utils.training.schedules import by_update, warmup_then_cosine
from utils.training.setup import begin_run, join_training, prepare_device, steps_of_whole_updates
from utils.training.stop import resume_command

MODEL = "model.pth"
WEIGHTS = {"pixel": 1.0, "ssim": 1.0, "lpips": 0.2, "identity": 1.0, "token": 0.0}  # of the loss terms, as released
SHOWN = ("total", "pixel", "ssim", "lpips", "identity")
MASK_RATES = {"replaced": (0.6, 0.8, 0.7, 0.1), "added": (0.5, 1.0, 0.75, 0.25)}  # min, max, mu, std


def adapter_parser() -> Parser:
    parser = make_parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("--data", "--train_source", required=True, help="training LMDB")
    data.add_argument("--mask", help=".npy file of the positions of the records to train on (default: all)")
    data.add_argument(
        "--landmarks", default="lmdb",
        help="source of the landmarks: `lmdb`, the pictures in its records; `mtcnn`, a face detector, in every epoch "
        "anew; or the labels.jsonl of the rendered photos that the LMDB was made of",
    )  # fmt: skip
    data.add_argument(
        "--vectors", choices=VECTORS, default="photo",
        help="what a photo is reconstructed from: its own feature, as published, or the mean feature of its identity, "
        "which leaves the pose to the landmarks",
    )  # fmt: skip
    add_reading_flags(data)

    model = parser.add_argument_group("models")
    model.add_argument("--model", choices=list(PRESETS), help="expected preset of the generator (default: any)")
    model.add_argument("--model_weights", default="vec2face_plus/main_model.pth", help="weights of the generator")
    add_loss_network_flags(model)
    model.add_argument("--lora_r", type=positive, default=RANK, help="rank of LoRA")
    model.add_argument("--lora_alpha", type=float, default=ALPHA, help="alpha of LoRA, whose factor is alpha / rank")
    model.add_argument(
        "--landmark_width", type=positive, default=STEM_WIDTH,
        help="channels of the landmark encoder's first convolution; each further one has twice as many",
    )  # fmt: skip
    model.add_argument(
        "--condition", choices=CONDITIONS, default=CONDITIONS[0],
        help="what the landmarks' token does: it is put in the place of the masked rows, as published, or added to all "
        "rows, so that the training begins with the generator as it is",
    )  # fmt: skip
    add_mask_ratio_flags(model, MASK_RATES)
    add_compile_flag(model, "generator")

    add_length_flags(parser, epochs=10)

    optimiser = parser.add_argument_group("optimiser")
    optimiser.add_argument(
        "--lr", type=float, default=1e-4, help="highest learning rate of AdamW, before a half-cosine"
    )
    optimiser.add_argument("--min_lr", type=float, default=1e-6, help="learning rate at the end of the half-cosine")
    optimiser.add_argument("--warmup_epochs", type=float, default=1.0, help="number of epochs of linear warm-up from 0")
    optimiser.add_argument("--weight_decay", type=float, default=0.05, help="AdamW weight decay")
    optimiser.add_argument("--clip_grad", type=float, default=math.inf, help="largest gradient norm")
    optimiser.add_argument("--seed", type=int, default=0, help="random seed of weights, order and masks")
    add_amp_flags(optimiser, "float16")
    add_training_run_flags(parser, "./pose_control")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = adapter_parser().parse_args(argv)
    world = join_training(args.device)
    if world.is_main:
        check_output_folder(args.output_dir, args.resume, args.overwrite, [MODEL])
    use_demo_weights(args)
    for name, default in zip(("min", "max", "mu", "std"), MASK_RATES[args.condition], strict=True):
        if getattr(args, f"mask_ratio_{name}") is None:
            setattr(args, f"mask_ratio_{name}", default)
    check_agreement(world, vars(args))
    device, precision = prepare_device(args.device, world, args.use_amp, args.amp_dtype)

    with contextlib.closing(TrainingData(args.data, args.mask, seed=args.seed)) as records:
        batches = EpochBatches(len(records), args.batch_size, args.seed, world.rank, world.size)
        steps_per_epoch = steps_of_whole_updates(batches, args.accum_iter, args.data)
        data = LandmarkData(records, picture_source(args.landmarks, args.data), args.vectors)
        first = data[0, 0]
        if first.error:  # most likely all are broken
            raise UserError(f"{args.data}: {first.error} (--landmarks {args.landmarks}).")
        records.close()  # each process that reads opens it itself

        # The frozen generator with a new adapter, and the training objective.
        generator = load_vec2face(args.model_weights, device, model=args.model)
        preset = next(name for name, a in PRESETS.items() if a.width == generator.architecture.width)
        torch.manual_seed(args.seed)
        parameters = add_adapter(generator, args.lora_r, args.lora_alpha, args.landmark_width, args.condition)
        generator.to(device).eval()
        encoder = load_face_encoder(args.id_weights, device, precision.dtype)
        criterion = GeneratorLoss(encoder, load_perceptual(args.lpips_weights, encoder), WEIGHTS).to(device)

        about = {"model": preset, "lora": {"rank": args.lora_r, "alpha": args.lora_alpha}, "condition": args.condition}
        state = AdapterState(
            generator, parameters, precision.scaler(device), weight_decay=args.weight_decay,
            about=about | {"generator_sha256": sha256(args.model_weights)}, settings=vars(args),
            run=run_description(world, [records.positions]),
        )  # fmt: skip
        notes = records.encoder_warnings(args.id_weights)
        if args.resume:
            path, content = world.from_main(partial(load_checkpoint, args.resume))
            if content is not None:
                notes = [*notes, *state.resume(content, path)]
        steps = min(args.epochs * steps_per_epoch, args.max_steps or math.inf)
        state.last_step = steps // args.accum_iter * args.accum_iter
        of_epoch = partial(
            warmup_then_cosine, highest=args.lr, lowest=args.min_lr, warmup_epochs=args.warmup_epochs,
            epochs=args.epochs,
        )  # fmt: skip
        hyper = Hyperparameters(
            steps_per_epoch=steps_per_epoch, accum_iter=args.accum_iter, clip_grad=args.clip_grad, seed=args.seed,
            learning_rate=by_update(of_epoch, steps_per_epoch // args.accum_iter),
        )  # fmt: skip
        run = begin_run(
            world, device, precision, state.step, state.last_step, SHOWN, notes,
            resume_command=resume_command(__file__, argv, args.output_dir), output_dir=args.output_dir,
            log_dir=args.log_dir, resume=args.resume, overwrite=args.overwrite, log_every=args.log_every,
            save_every=args.save_every, results=[MODEL],
        )  # fmt: skip
        run.log.check_warmup(args.warmup_epochs * steps_per_epoch, f"--warmup_epochs {args.warmup_epochs:g}")
        mask_rates = mask_rates_of(
            args.mask_ratio_min, args.mask_ratio_max, args.mask_ratio_mu, args.mask_ratio_std
        )  # fmt: skip
        reconstruction = Reconstruction(criterion, mask_rates, device)
        train_network(
            state, parallel(generator, world, device, args.compile), reconstruction, batches,
            make_loader(data, batches, args.workers, args.pin_memory and device.type == "cuda"),
            BrokenItems(args.data, "records", args.max_bad_records), hyper, run, picture=reconstruction.picture,
        )  # fmt: skip
        if world.is_main and state.step == state.last_step:
            save_file(state.adapter(), run.folder / MODEL)
            print(f"adapter: {run.folder / MODEL}")
        run.close()


class Reconstruction:
    """The loss of a batch: its photos are reconstructed from their vectors and pictures of their landmarks."""

    def __init__(self, criterion: GeneratorLoss, mask_rates: MaskRates, device: torch.device):
        self.criterion, self.mask_rates, self.device = criterion, mask_rates, device
        self.real = self.fake = None  # (B, 3, 112, 112) in [-1, 1] of the last batch

    def __call__(self, generator: nn.Module, batch: LandmarkItem) -> dict[str, torch.Tensor]:
        """{term: loss} with the "total"."""
        real, pictures = (to_images(upload(pixels, self.device)) for pixels in (batch.pixels, batch.picture))
        vectors = upload(batch.vector, self.device)  # (B, 512)
        output = generator(vectors, draw_mask(self.mask_rates, len(real), self.device), landmarks=pictures)
        self.real, self.fake = real, output.images
        return self.criterion(output, real, vectors)

    def picture(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The photos and the reconstructions of the last batch."""
        return self.real, self.fake


if __name__ == "__main__":
    main()
