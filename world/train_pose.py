"""Train a head pose estimator on photos with exact labels, such as world/render_faces.py writes.

    python world/train_pose.py --data rendered/people --test rendered/unseen --output_dir pose

The estimator is a small 6DRepNet (Hempel et al., 2022), which predicts two axes of the head's rotation and is trained
with the geodesic loss. Angles are in degrees; positive yaw turns the nose to the right of the image, positive pitch
upwards. The result is OUTPUT_DIR/model.pth, for --pose_weights. To resume a run that was killed, or stopped with
Ctrl-C, which saves a checkpoint first, add --resume OUTPUT_DIR to the same command.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from utils.cli.command import command

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from models.errors import UserError
from models.pixels import to_images
from models.sixdrepnet import SMALL, SixDRepNet, euler_angles, load_pose_estimator
from models.transfer import upload
from models.weight_files import load_weights_strict, save_file
from utils.cli.flags import Parser, add_training_run_flags, make_parser, positive
from utils.data.augmentation import augment_face
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.images import SIDE
from utils.data.loader import EpochBatches, drop_broken, make_loader
from utils.runtime.distributed import Distributed
from utils.runtime.durable import atomic_write
from utils.runtime.precision import Precision
from utils.training.finite_check import FiniteCheck
from utils.training.folder import LAST, check_output_folder
from utils.training.optimizers import load_optimizer, set_learning_rates
from utils.training.resuming import check_settings, load_checkpoint, run_description
from utils.training.schedules import warmup_within_cosine
from utils.training.setup import Run, begin_run, prepare_device
from utils.training.stop import resume_command

FIXED = ("batch_size", "seed")  # flags that decide which photos and draws a step gets
RESULTS = MODEL, SCORES = "model.pth", "scores.json"
ANGLES = ("pitch", "yaw", "roll")
MIRRORED = torch.tensor([1.0, -1.0, -1.0])  # factors of the angles when a photo is mirrored
COSINE_LIMIT = 1 - 1e-6  # largest cosine whose acos is taken, so that its gradient stays finite


def pose_parser() -> Parser:
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="labelled training photos: folder or LMDB of render_faces.py")
    parser.add_argument("--test", help="labelled photos of other identities, to score the result on")
    parser.add_argument("--batch_size", type=positive, default=64, help="number of photos per batch")
    parser.add_argument("--epochs", type=positive, default=6, help="number of passes over the data")
    parser.add_argument("--max_steps", type=positive, help="largest number of batches (default: that of --epochs)")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate of AdamW, before a half-cosine")
    parser.add_argument("--weight_decay", type=float, default=0.01, help="AdamW weight decay")
    parser.add_argument("--warmup_steps", type=int, default=100, help="number of steps of linear warm-up from 0")
    parser.add_argument(
        "--augmentation", type=float, default=0.2, help="probability of each of crop, low resolution and colour change"
    )
    parser.add_argument("--workers", type=int, default=2, help="number of processes that read, decode and augment")
    parser.add_argument("--seed", type=int, default=0, help="random seed of weights, order and augmentation")
    add_training_run_flags(parser, "./pose")
    return parser


class PoseItem(NamedTuple):
    """A photo with its pose, or, with a leading dimension B, a batch of them."""

    pixels: torch.Tensor  # (112, 112, 3) uint8
    angles: torch.Tensor  # (3,) pitch, yaw and roll in degrees
    error: str  # why the photo is broken; empty if it is not


class PoseData(Dataset):
    """Photos with their poses: item ``(epoch, index)`` is a PoseItem.

    ``faces``: a FaceSet with labels. ``augmentation``: probability of each change; None leaves the photos as they are.
    """

    def __init__(self, faces: FaceSet, seed: int = 0, augmentation: float | None = None):
        self.faces, self.seed, self.augmentation = faces, seed, augmentation
        self.angles = torch.tensor([[line[name] for name in ANGLES] for line in load_labels(faces)])  # (N, 3)

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, item: tuple[int, int]) -> PoseItem:
        epoch, index = item
        try:
            image, angles = self.faces.image(index), self.angles[index]
        except (ValueError, OSError) as error:
            pixels = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
            return PoseItem(pixels, torch.zeros(3), f"{self.faces.name(index)}: {error}")
        if self.augmentation is not None:
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index)))
            image, mirrored = augment_face(image, rng, self.augmentation)
            angles = angles * MIRRORED if mirrored else angles
        return PoseItem(torch.from_numpy(image), angles, "")


def rotation_of(angles: torch.Tensor) -> torch.Tensor:
    """Pitch, yaw and roll in degrees (N, 3) -> rotations (N, 3, 3); the inverse of ``euler_angles``."""
    (cp, cy, cr), (sp, sy, sr) = torch.deg2rad(angles).cos().T, torch.deg2rad(angles).sin().T
    rows = [
        [cr * cy, cr * sy * sp - sr * cp, cr * sy * cp + sr * sp],
        [sr * cy, sr * sy * sp + cr * cp, sr * sy * cp - cr * sp],
        [-sy, cy * sp, cy * cp],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)  # (N, 3, 3)


def geodesic_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angle in radians (N,) between rotations (N, 3, 3) (Hempel et al., 2022, equation 3)."""
    trace = (a * b).sum((1, 2))  # (N,), of a^T b
    return ((trace - 1) / 2).clamp(-COSINE_LIMIT, COSINE_LIMIT).acos()


@command
def main(argv: Sequence[str] | None = None) -> None:
    args = pose_parser().parse_args(argv)
    check_output_folder(args.output_dir, args.resume, args.overwrite, RESULTS)
    world = Distributed()
    device, precision = prepare_device(args.device, world, use_amp=False, amp_dtype=None)
    data = PoseData(FaceSet(args.data), args.seed, args.augmentation)
    test = PoseData(FaceSet(args.test)) if args.test else None
    batches = EpochBatches(len(data), args.batch_size, args.seed)
    if batches.steps == 0:
        raise UserError(f"{args.data}: {len(data)} photos are fewer than --batch_size {args.batch_size}.")

    torch.manual_seed(args.seed)
    model = SixDRepNet(**SMALL).for_training().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    description = run_description(world, [data.faces.positions, data.faces.labels])
    state, notes = PoseState(model, optimizer, vars(args), description), []
    if args.resume:
        path, content = load_checkpoint(args.resume)
        if content is not None:
            notes = state.resume(content, path)

    steps = args.epochs * batches.steps
    last_step = min(steps, args.max_steps or math.inf)
    run = begin_run(
        world, device, precision, state.step, last_step, ("loss", "yaw_error"), notes,
        resume_command=resume_command(__file__, argv, args.output_dir), output_dir=args.output_dir,
        log_dir=args.log_dir, resume=args.resume, overwrite=args.overwrite, results=RESULTS, log_every=args.log_every,
        save_every=args.save_every,
    )  # fmt: skip
    run.log.check_warmup(args.warmup_steps, f"--warmup_steps {args.warmup_steps}")
    learning_rate = partial(warmup_within_cosine, highest=args.lr, warmup_steps=args.warmup_steps, steps=steps)
    train(
        state, batches, make_loader(data, batches, args.workers, device.type == "cuda"), last_step, learning_rate, run
    )
    run.close()
    if run.stop.seen:
        return
    path = run.folder / MODEL
    save_file({"state_dict": model.fuse().state_dict()}, path)
    print(f"pose estimator: {path}")
    if test:
        with Precision().applied():
            scores = score(load_pose_estimator(path, device), test, args.batch_size, device)
        atomic_write(path.with_name(SCORES), json.dumps(scores, indent=2) + "\n")
        print("on {photos} photos, mean error in degrees: yaw {yaw}, pitch {pitch}, roll {roll}".format(**scores))


class PoseState:
    """Pose estimator, optimiser and the number of steps.

    ``settings``, the flags, and ``run``, the result of ``run_description``, are kept in the checkpoints.
    """

    def __init__(
        self, model: SixDRepNet, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any], run: Mapping[str, Any]
    ):
        self.model, self.optimizer, self.settings, self.run, self.step = model, optimizer, dict(settings), run, 0

    def save(self, path: Path) -> None:
        """Write a checkpoint in one step. Raises UserError when it cannot be written; an earlier file then stays."""
        content = {"pose": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        save_file(content | {"args": self.settings, "run": self.run}, path)

    def resume(self, content: Any, path: Path) -> list[str]:
        """Load everything from the content of a checkpoint; notes for the user.

        Raises UserError when it does not fit, or was made with settings that have to be the same.
        """
        if not isinstance(content, dict) or not {"pose", "optimizer", "step"} <= content.keys():
            raise UserError(f"{path}: not a checkpoint of this script.")
        notes = check_settings(path, content, self.settings, self.run, FIXED)
        load_weights_strict(self.model, content["pose"], path, "this pose estimator")
        load_optimizer(self.optimizer, content["optimizer"], path)
        self.step = content["step"]
        return notes


def train(
    state: PoseState,
    batches: EpochBatches,
    loader: Iterable[PoseItem],
    last_step: int,
    learning_rate: Callable[[int], float],
    run: Run,
) -> None:
    """The training loop, from ``state.step`` to ``last_step`` or until the user stops it.

    ``loader``: iterates over the batches chosen by ``batches``. ``learning_rate``: by step. Raises UserError when a
    photo is broken or a loss is not finite.
    """
    model, optimizer, log, finite = state.model, state.optimizer, run.log, FiniteCheck()
    while state.step < last_step and not run.stop.seen:
        epoch = state.step // batches.steps
        batches.begin(epoch, state.step % batches.steps)
        for batch in loader:
            if broken := next(filter(None, batch.error), None):
                raise UserError(f"{broken}; render it again, or remove it and its label.")
            images, angles = to_images(upload(batch.pixels, run.device)), upload(batch.angles, run.device)
            lr = learning_rate(state.step)
            set_learning_rates(optimizer, lr)
            rotation = model.rotation(images)  # (B, 3, 3), from images (B, 3, 112, 112)
            loss = geodesic_loss(rotation, rotation_of(angles)).mean()
            finite.add({"loss": loss}, state.step, "try a lower --lr.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            state.step += 1
            yaw_error = (torch.rad2deg(euler_angles(rotation.detach()))[:, 1] - angles[:, 1]).abs().mean()
            log.add({"loss": loss, "yaw_error": yaw_error}, len(images))
            if state.step % run.log_every == 0 or state.step == last_step:
                finite.settle()
                log.write(state.step, epoch, lr)
            if run.stop.asked() or state.step == last_step:
                break
            if run.save_every and state.step % run.save_every == 0:
                finite.settle()
                state.save(run.folder / LAST)
        finite.settle()
        state.save(run.folder / LAST)


@torch.inference_mode()
def score(estimator: SixDRepNet, data: PoseData, batch_size: int, device: torch.device) -> dict[str, Any]:
    """{angle: mean absolute error in degrees}, the number of "photos", and "yaw_at", the yaw error by |yaw|."""
    predictions, labels = [], []
    items = [(0, index) for index in range(len(data))]
    parts = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    for batch in tqdm(make_loader(data, parts, 0, False), desc="test", unit="batch", leave=False):
        batch = drop_broken(batch)
        predictions.append(estimator(to_images(batch.pixels.to(device))).cpu())
        labels.append(batch.angles)
    labels = torch.cat(labels)  # (N, 3)
    errors = (torch.cat(predictions) - labels).abs().numpy()  # (N, 3)
    scores = {"photos": len(errors)} | dict(zip(ANGLES, errors.mean(0).round(2).tolist(), strict=True))
    yaw = labels[:, 1].abs().numpy()  # (N,)
    ranges = {f"{low}-{low + 30}": errors[(yaw >= low) & (yaw < low + 30), 1] for low in (0, 30, 60)}
    return scores | {"yaw_at": {name: round(float(part.mean()), 2) for name, part in ranges.items() if len(part)}}


if __name__ == "__main__":
    main()
