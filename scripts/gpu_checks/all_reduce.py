"""How fast the processes of a torchrun sum their gradients.

    torchrun --nproc_per_node=8 scripts/gpu_checks/all_reduce.py --device cuda --megabytes 256

Prints the bus bandwidth as NCCL's own tests define it: 2 (n - 1) / n times the size, over the time of one sum.
"""

import time

from utils.cli.command import command

import torch
import torch.distributed as dist

from utils.cli.flags import make_parser, positive
from utils.runtime.device import resolve_device
from utils.runtime.distributed import init_distributed

ROUNDS = 10
BANDWIDTH = "GB/s of bus bandwidth"  # marks the line with the result
MEGABYTE, GIGABYTE = 10**6, 10**9


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="gloo on a CPU, NCCL on GPUs")
    parser.add_argument("--megabytes", type=positive, default=256, help="size of what is summed")
    args = parser.parse_args(argv)
    world = init_distributed("nccl" if args.device == "cuda" else "gloo")
    device = resolve_device(args.device, world.local_rank)
    values = torch.zeros(args.megabytes * MEGABYTE // 4, device=device)  # float32
    dist.all_reduce(values)  # connects the processes
    world.barrier()
    start = time.perf_counter()
    for _ in range(ROUNDS):
        dist.all_reduce(values)
    float(values[0])  # waits for the device
    seconds = (time.perf_counter() - start) / ROUNDS
    if world.is_main:
        bandwidth = 2 * (world.size - 1) / world.size * args.megabytes * MEGABYTE / seconds / GIGABYTE
        print(f"{bandwidth:.2g} {BANDWIDTH}, {seconds * 1000:.3g} ms a sum", flush=True)


if __name__ == "__main__":
    main()
