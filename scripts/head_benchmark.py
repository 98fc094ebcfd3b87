"""Measure what a step of a margin head takes at many identities: whole in every process, sharded, and sampled.

    torchrun --nproc_per_node=2 scripts/head_benchmark.py
    torchrun --nproc_per_node=2 scripts/head_benchmark.py --classes 1000 2000 --batch_size 8 --steps 1

Prints, for each number of identities, the memory of a process (directions, gradients, momentum, and the largest of what
a step makes), the bytes that a process receives in a step over the network devices of this machine, and the seconds of
a step. The features are random, and there is no backbone. The least of all steps is taken, because other traffic on the
machine counts as well (`unshare -n` keeps it away). The bytes between GPUs of one machine pass no network device and
are not counted.
"""

import gc
import time
from collections.abc import Sequence
from pathlib import Path

from utils.cli.command import command

import torch
import torch.nn as nn

from models.heads import HEADS, make_head
from models.sharded_head import ShardedHead
from utils.cli.flags import make_parser, positive
from utils.runtime.device import resolve_device
from utils.runtime.distributed import Distributed
from utils.training.fr_state import make_optimizer
from utils.training.parallel import parallel
from utils.training.setup import join_training

MEBI = 1 << 20
FORMS = {"whole": None, "sharded": 1.0, "sharded, a tenth sampled": 0.1}  # {form: --sample_rate of a sharded head}


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--classes", type=positive, nargs="+", default=[10_000, 100_000, 300_000], help="numbers of identities"
    )
    parser.add_argument("--head", choices=HEADS, default="arcface", help="margin head")
    parser.add_argument("--batch_size", type=positive, default=128, help="number of images per process")
    parser.add_argument("--steps", type=positive, default=3, help="number of steps to measure, after one more")
    parser.add_argument("--device", default="auto", help="device to compute on: auto, cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    world = join_training(args.device)
    device = resolve_device(args.device, world.local_rank)  # and freed memory goes back to the system, to be measured
    if world.is_main:
        print(f"{world.size} processes of {args.batch_size} images")
        print("| identities | head | memory, MB | received in a step, MB | seconds a step |\n|---|---|---|---|---|")
    for classes in args.classes:
        for form, sample_rate in FORMS.items():
            memory, received, seconds = measure(
                args.head, classes, sample_rate, args.batch_size, args.steps, world, device
            )
            if world.is_main:
                print(f"| {classes:,} | {form} | {memory / MEBI:,.0f} | {received / MEBI:,.1f} | {seconds:.2f} |")


def measure(
    name: str,
    classes: int,
    sample_rate: float | None,
    batch_size: int,
    steps: int,
    world: Distributed,
    device: torch.device,
) -> tuple[float, float, float]:
    """(bytes of memory, bytes received in a step, seconds of a step), the least of all steps.

    ``sample_rate``: that of a sharded head; None for a whole head in DistributedDataParallel.
    """
    features = nn.Parameter(torch.randn(batch_size, 512, device=device))
    labels = torch.randint(classes, (batch_size,), device=device)
    with torch.device("meta"):  # random numbers would take the memory of a whole head
        head = make_head(name, classes)
    if sample_rate is not None:
        head = ShardedHead(head, batch_size, world.rank, world.size, sample_rate)
    before = begin_peak(device)
    head.to_empty(device=device)
    with torch.no_grad():
        for tensor in (*head.parameters(), *head.buffers()):
            tensor.fill_(1.0) if tensor.ndim == 0 else tensor.normal_(std=0.01)
    network = parallel(head, world, device) if sample_rate is None else head
    optimizer = make_optimizer(head, 0.1, 0.9, 5e-4)

    def step():
        network(features, labels).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    step()  # in which buffers are made
    memory, timed = peak(device) - before, []
    for _ in range(steps):
        world.barrier()
        start, received = time.perf_counter(), received_bytes()
        step()
        world.barrier()
        timed.append(((received_bytes() - received) / world.local_size, time.perf_counter() - start))
    of_all = world.gather((memory, *map(min, zip(*timed, strict=True))))  # other work only ever adds to either
    return tuple(sum(column) / world.size for column in zip(*of_all, strict=True))


def begin_peak(device: torch.device) -> int:
    """Forget the largest memory use so far; returns the present one in bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak(device: torch.device) -> int:
    """The largest memory use since ``begin_peak``, in bytes."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    """A value of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def received_bytes() -> int:
    """The bytes that this machine's network devices have received, those from itself among them."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[0]) for line in lines)


if __name__ == "__main__":
    main()
