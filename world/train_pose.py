"""Train a head pose estimator on faces with exact labels, such as world/render_faces.py writes.

    python world/train_pose.py --data rendered/people --test rendered/unseen --output_dir pose

A small 6DRepNet (Hempel et al., 2022): two axes of the head's rotation, geodesic loss. Angles in degrees, in the
labels' sense: positive yaw turns the nose to the image's right, positive pitch up. Writes OUTPUT_DIR/model.pth,
which --pose_weights reads. Stopped (Ctrl-C saves a checkpoint first) or killed: the same command with
--resume OUTPUT_DIR.
"""

import json
import math
from pathlib import Path

from utils.cli.command import command

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from models.errors import UserError
from models.pixels import to_images
from models.sixdrepnet import SMALL, SixDRepNet, euler_angles, load_pose_estimator
from models.transfer import upload
from models.weight_files import fit, save_file
from utils.cli.flags import add_training_run_flags, make_parser, positive
from utils.data.augmentation import augment_face
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.images import SIDE
from utils.data.training_data import EpochBatches, make_loader, without_broken
from utils.runtime.device import keep_freed_memory, resolve_device
from utils.runtime.distributed import World
from utils.runtime.precision import Precision
from utils.training.finite_check import FiniteCheck
from utils.training.folder import LAST, check_output_folder, start_anew
from utils.training.log import Log
from utils.training.resuming import check_settings, load_checkpoint, load_optimizer, run_of
from utils.training.stop import StopSignal, resume_command

FIXED = ("batch_size", "seed")  # flags that decide which photos and draws a step sees
RESULTS = MODEL, SCORES = "model.pth", "scores.json"
ANGLES = ("pitch", "yaw", "roll")
MIRRORED = torch.tensor([1.0, -1.0, -1.0])  # what mirroring a photo makes of them
COSINE_LIMIT = 1 - 1e-6  # acos has a finite slope within


def pose_parser():
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="labelled photos: folder or LMDB of render_faces.py")
    parser.add_argument("--test", help="labelled photos of other people, to score the result on")
    parser.add_argument("--batch_size", type=positive, default=64, help="photos at a time")
    parser.add_argument("--epochs", type=positive, default=6, help="passes over the data")
    parser.add_argument("--max_steps", type=positive, help="stop after this many batches (default: after --epochs)")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate of AdamW, then a half-cosine")
    parser.add_argument("--weight_decay", type=float, default=0.01, help="of AdamW")
    parser.add_argument("--warmup_steps", type=int, default=100, help="steps of linear warm-up from 0")
    parser.add_argument("--augmentation", type=float, default=0.2, help="probability of crop, low resolution, colours")
    parser.add_argument("--workers", type=int, default=2, help="processes that read, decode and augment")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    add_training_run_flags(parser, "./pose")
    return parser


class PoseData(Dataset):
    """Item ``(epoch, index)`` -> pixels (112, 112, 3) uint8, (pitch, yaw, roll) in degrees (3,), error text.

    ``faces``: a FaceSet with labels. ``augmentation``: probability of each change, None: the photos as they are.
    """

    def __init__(self, faces, seed=0, augmentation=None):
        self.faces, self.seed, self.augmentation = faces, seed, augmentation
        self.angles = torch.tensor([[line[name] for name in ANGLES] for line in load_labels(faces)])  # (N, 3)

    def __len__(self):
        return len(self.faces)

    def __getitem__(self, item):
        epoch, index = item
        try:
            image, angles = self.faces.image(index), self.angles[index]
        except (ValueError, OSError) as error:
            pixels = torch.zeros(SIDE, SIDE, 3, dtype=torch.uint8)
            return pixels, torch.zeros(3), f"{self.faces.name(index)}: {error}"
        if self.augmentation is not None:
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index)))
            image, mirrored = augment_face(image, rng, self.augmentation)
            angles = angles * MIRRORED if mirrored else angles
        return torch.from_numpy(image), angles, ""


def rotation_of(angles):
    """(N, 3) degrees: pitch, yaw, roll -> (N, 3, 3) rotation, the inverse of ``euler_angles``."""
    (cp, cy, cr), (sp, sy, sr) = torch.deg2rad(angles).cos().T, torch.deg2rad(angles).sin().T
    rows = [
        [cr * cy, cr * sy * sp - sr * cp, cr * sy * cp + sr * sp],
        [sr * cy, sr * sy * sp + cr * cp, sr * sy * cp - cr * sp],
        [-sy, cy * sp, cy * cp],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)  # (N, 3, 3)


def geodesic_loss(a, b):
    """Angle between rotations (N, 3, 3) in radians, (N,) (Hempel et al., 2022, equation 3)."""
    trace = (a * b).sum((1, 2))  # of a^T b
    return ((trace - 1) / 2).clamp(-COSINE_LIMIT, COSINE_LIMIT).acos()


@command
def main(argv=None):
    args = pose_parser().parse_args(argv)
    check_output_folder(args, RESULTS)
    device = resolve_device(args.device)
    torch.backends.cudnn.benchmark = True  # all batches have one shape; without effect on a CPU
    keep_freed_memory(device)
    precision = Precision.for_training(False, None, device)
    precision.apply()
    data = PoseData(FaceSet(args.data), args.seed, args.augmentation)
    test = PoseData(FaceSet(args.test)) if args.test else None
    if train(args, data, device, precision, resume_command(__file__, argv, args.output_dir)) and test:
        path = Path(args.output_dir) / MODEL
        with Precision().applied():
            scores = score(load_pose_estimator(path, device), test, args.batch_size, device)
        (path.parent / SCORES).write_text(json.dumps(scores, indent=2) + "\n")
        print("on {photos} photos, mean error in degrees: yaw {yaw}, pitch {pitch}, roll {roll}".format(**scores))


def train(args, data, device, precision, how_to_resume):
    """The training loop; whether it came to its end. ``how_to_resume``: the command that continues it."""
    batches = EpochBatches(len(data), args.batch_size, args.seed)
    steps_per_epoch = batches.steps
    if steps_per_epoch == 0:
        raise UserError(f"{args.data}: {len(data)} photos are fewer than --batch_size {args.batch_size}.")
    torch.manual_seed(args.seed)
    model = SixDRepNet(**SMALL).for_training().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    world = World()
    run, notes, step = run_of(world, [data.faces.positions, data.faces.labels]), [], 0
    if args.resume:
        path, content = load_checkpoint(args.resume)
        if content is not None:
            notes = check_settings(path, check_parts(content, path), vars(args), run, FIXED)
            step = resume(content, path, model, optimizer)
    last_step = min(args.epochs * steps_per_epoch, args.max_steps or math.inf)
    if args.overwrite:
        start_anew(args.output_dir, RESULTS)
    log = Log(args, world, device, step, last_step, shown=("loss", "yaw_error"))
    log.begin(precision)
    for note in notes:
        log.say(note)
    log.check_warmup(args.warmup_steps, f"--warmup_steps {args.warmup_steps}")
    stop = StopSignal(world, how_to_resume)
    folder = Path(args.output_dir)
    loader, finite = make_loader(data, batches, args.workers, device.type == "cuda"), FiniteCheck()

    def save():
        content = {"pose": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        save_file(content | {"args": dict(vars(args)), "run": run}, folder / LAST)

    while step < last_step and not stop.seen:
        epoch = step // steps_per_epoch
        batches.begin(epoch, step % steps_per_epoch)
        for pixels, angles, errors in loader:
            if broken := next(filter(None, errors), None):
                raise UserError(f"{broken}; render it again, or remove it and its label.")
            images, angles = to_images(upload(pixels, device)), upload(angles, device)  # (B, 3, 112, 112), (B, 3)
            lr = learning_rate(step, args.epochs * steps_per_epoch, args)
            for group in optimizer.param_groups:
                group["lr"] = lr
            rotation = model.rotation(images)  # (B, 3, 3)
            loss = geodesic_loss(rotation, rotation_of(angles)).mean()
            finite.add({"loss": loss}, step, "try a lower --lr.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            yaw_error = (torch.rad2deg(euler_angles(rotation.detach()))[:, 1] - angles[:, 1]).abs().mean()
            log.add({"loss": loss, "yaw_error": yaw_error}, len(images))
            if step % args.log_every == 0 or step == last_step:
                finite.settle()
                log.write(step, epoch, lr)
            if stop.asked() or step == last_step:
                break
            if args.save_every and step % args.save_every == 0:
                finite.settle()
                save()
        finite.settle()
        save()
    del loader  # ends its processes, which ignore signals: at exit Python would wait for them for ever
    log.close()
    stop.close()
    if not stop.seen:
        save_file({"state_dict": model.fuse().state_dict()}, folder / MODEL)
        log.say(f"pose estimator: {folder / MODEL}")
    return not stop.seen


def learning_rate(step, steps, args):
    """Linear from 0 over the warm-up, then a half-cosine to 0."""
    if step < args.warmup_steps:
        return args.lr * (step + 1) / args.warmup_steps
    return args.lr * 0.5 * (1 + math.cos(math.pi * step / steps))


def check_parts(content, path):
    """The ``content`` of a checkpoint; UserError when it is not one of this script."""
    if not isinstance(content, dict) or not {"pose", "optimizer", "step"} <= content.keys():
        raise UserError(f"{path}: not a checkpoint of this script.")
    return content


def resume(content, path, model, optimizer):
    """Take all of a checkpoint's content; the steps it has done. Raises UserError when it does not fit."""
    fit(model, content["pose"], path, "this pose estimator")
    load_optimizer(optimizer, content["optimizer"], path)
    return content["step"]


@torch.inference_mode()
def score(estimator, data, batch_size, device):
    """{angle: mean absolute error in degrees} on PoseData, "photos", and the error of yaw by |yaw| ("yaw_at")."""
    found, wanted = [], []
    items = [(0, index) for index in range(len(data))]
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    for *columns, errors in tqdm(make_loader(data, batches, 0, False), desc="test", unit="batch", leave=False):
        pixels, angles = without_broken(errors, *columns)
        found.append(estimator(to_images(pixels.to(device))).cpu())
        wanted.append(angles)
    wanted = torch.cat(wanted)  # (N, 3)
    errors = (torch.cat(found) - wanted).abs().numpy()  # (N, 3)
    scores = {"photos": len(errors)} | dict(zip(ANGLES, errors.mean(0).round(2).tolist(), strict=True))
    far = wanted[:, 1].abs().numpy()
    parts = {f"{low}-{low + 30}": errors[(far >= low) & (far < low + 30), 1] for low in (0, 30, 60)}
    return scores | {"yaw_at": {name: round(float(part.mean()), 2) for name, part in parts.items() if len(part)}}


if __name__ == "__main__":
    main()
