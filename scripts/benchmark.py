"""Measure how fast this machine runs the models, and which fraction of its own peak speed that is.

    python scripts/benchmark.py                                     base preset, batch 8, this machine's precisions
    python scripts/benchmark.py --model vec2face_vit_tiny --batch_size 16 --precision fp32

The floor is the time that the FLOPs of an image take at the peaks measured in the same run, convolutions and matrix
products each at their own; "share of the floor" is the floor over the measured time. Weights are random, as they do not
change the speed. Every job runs in a process of its own, so its peak memory is its own. On a GPU a time is measured
between two events with many calls in between, and peaks are those of large operands: the time to launch a call counts
only where the GPU waits for it, as in use.
"""

import json
import multiprocessing
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from utils.cli.command import command

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torchvision.models.vgg import cfgs, make_layers

from models.attrop import AttrOP, Row, quality_target, yaw_target
from models.iresnet import IResNet, load_face_encoder
from models.losses import GeneratorLoss
from models.masking import MaskRates, TokenMask
from models.perceptual import LPIPS
from models.sixdrepnet import SixDRepNet
from models.vec2face import PRESETS, Vec2Face, load_vec2face
from utils.cli.flags import make_parser, positive
from utils.generation.identity_sampling import GaussianSampler, sample_apart, similarity_of_pairs
from utils.generation.streams import identity_stream
from utils.runtime.device import compiled, keep_freed_memory, resolve_device
from utils.runtime.precision import PRECISIONS, Precision, has_bf16

CONV_SHAPES = ((128, 112), (256, 56), (256, 28), (512, 14))  # channels and side of the generator's convolutions
GEMM_SHAPES = ((768, 2304), (768, 3072), (3072, 768), (2048, 2048))
TOKENS = 45
GPU_PEAK_BATCH = 128  # images, at least: a GPU finishes fewer before the next call is launched
GPU_WARM_UP = 3  # calls
GPU_SECONDS = 0.2  # shortest time between two events
GIGA = 1e9
DEMO = Path(__file__).resolve().parents[1] / "weights" / "demo"
DEMO_QUALITY = 27  # high enough that rows need different numbers of iterations

Result = TypeVar("Result")
TableRow = dict[str, Any]  # a row of the table and of the JSON file


class Job(NamedTuple):
    """``call``: the function to time; ``models``: {model: how many times its forward FLOPs a call takes}."""

    call: Callable[[], None]
    models: dict[nn.Module, float]


@command
def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model", choices=list(PRESETS), default="vec2face_vit_base_patch16", help="preset of the generator"
    )
    parser.add_argument("--batch_size", type=positive, default=8, help="number of images in a batch")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=list(PRECISIONS),
        help="number formats to measure (default: fp32, and bf16 where it is fast)",
    )
    parser.add_argument("--device", default="auto", help="device to measure: auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--repeats", type=positive, default=5, help="number of timed runs of a job; AttrOP runs one batch more"
    )
    parser.add_argument(
        "--compile", action="store_true", help="further timings with the models compiled by torch.compile"
    )
    parser.add_argument("--identities", type=positive, default=20_000, help="number of identity vectors to sample")
    parser.add_argument("--output", default="benchmark.json", help="JSON file to write")
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    precisions = args.precision or (["fp32", "bf16"] if has_bf16(device) else ["fp32"])

    print(f"{machine_name(device)}, torch {torch.__version__}, {args.model}, batch {args.batch_size}")
    rows = []
    for precision in precisions:
        peaks, jobs = [], []
        for work, compile in product((decode_job, attrop_job, training_job), (False, True)[: 1 + args.compile]):
            peaks.append(alone(measure_peaks, str(device), precision, args.batch_size, args.repeats))
            words = (str(device), precision, args.model, args.batch_size, args.repeats, compile)
            jobs.append(alone(measure, work, *words))
        conv, gemm = map(max, zip(*peaks, strict=True))  # other work on the machine only ever lowers a peak
        print(f"{precision} peak: convolution {conv:.0f} GFLOP/s, matrix product {gemm:.0f} GFLOP/s")
        rows += [with_share_of_floor(row, conv, gemm) for row in jobs]
    print(format_table(rows))
    runs = alone(accepted_per_minute, str(device), precisions[0], args.batch_size, 1 + args.repeats)
    print(
        f"AttrOP on the demo models, {precisions[0]}: {runs['refilled']:.0f} accepted images a minute, "
        f"{runs['refilled'] / runs['in_lockstep']:.2f} times those of batches that wait for their slowest row"
    )
    sampling = alone(sampling_speed, str(device), args.identities)
    print(
        f"{args.identities} identity vectors sampled and checked in {sampling['seconds']:.1f} s, "
        f"{sampling['share_of_floor']:.0%} of the floor (every pair multiplied once)"
    )
    content = {"machine": machine_name(device), "torch": torch.__version__, "model": args.model}
    content |= {"batch_size": args.batch_size, "rows": rows, "accepted_per_minute": runs, "sampling": sampling}
    Path(args.output).write_text(json.dumps(content, indent=2) + "\n")


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function in a new process, forked from one that has only imported the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scripts.benchmark", "timm.models.vision_transformer"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def set_formats(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """Set the backend flags of this process (TF32 off); returns the torch.device and the dtype."""
    precision = Precision(PRECISIONS[precision])
    precision.apply()
    return torch.device(device), precision.dtype


def machine_name(device: torch.device) -> str:
    """The name of the GPU, or that of the CPU and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def fastest(function: Callable[[], Any], device: torch.device, repeats: int, warm_up: bool = True) -> float:
    """Seconds per call: the lowest of ``repeats`` timings, after one untimed call if ``warm_up``."""
    if device.type == "cuda":
        return fastest_on_gpu(function, repeats)
    times = []
    for _ in range(repeats + warm_up):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[-repeats:])


def fastest_on_gpu(function: Callable[[], Any], repeats: int) -> float:
    """``fastest`` on a GPU, with enough calls in each timing that the launch of the first one does not matter."""
    for _ in range(GPU_WARM_UP):
        function()
    calls = 1
    while seconds_on_gpu(function, calls) < GPU_SECONDS:
        calls *= 2
    return min(seconds_on_gpu(function, calls) for _ in range(repeats)) / calls


def seconds_on_gpu(function: Callable[[], Any], calls: int) -> float:
    """Seconds between two GPU events around ``calls`` calls, which are launched without waiting."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000  # milliseconds


@torch.inference_mode()
def measure_peaks(device: str, precision: str, batch_size: int, repeats: int) -> tuple[float, float]:
    """GFLOP/s of the fastest convolution and of the fastest matrix product among the shapes in the models."""
    device, dtype = set_formats(device, precision)
    keep_freed_memory(device)
    if device.type == "cuda":
        batch_size = max(batch_size, GPU_PEAK_BATCH)
    conv, gemm = 0, 0
    for width, side in CONV_SHAPES:
        layer = nn.Conv2d(width, width, 3, padding=1, bias=False).to(device, dtype, memory_format=torch.channels_last)
        x = torch.randn(batch_size, width, side, side, device=device).to(dtype, memory_format=torch.channels_last)
        flops = 2 * batch_size * width * width * 9 * side * side
        conv = max(conv, flops / fastest(lambda: layer(x), device, 2 * repeats) / GIGA)  # noqa: B023, called at once
    for inner, outer in GEMM_SHAPES:
        weight = torch.randn(outer, inner, device=device).to(dtype)
        x = torch.randn(batch_size * TOKENS, inner, device=device).to(dtype)
        flops = 2 * len(x) * inner * outer
        gemm = max(gemm, flops / fastest(lambda: F.linear(x, weight), device, 10 * repeats) / GIGA)  # noqa: B023
    return conv, gemm


def decode_job(preset: str, device: torch.device, dtype: torch.dtype, batch_size: int) -> Job:
    """Decoding a batch of vectors."""
    generator, vectors, mask = make_generator(preset, device, dtype, batch_size)

    @torch.inference_mode()
    def job() -> None:
        generator(vectors, mask)

    return Job(job, {generator: 1})


def attrop_job(preset: str, device: torch.device, dtype: torch.dtype, batch_size: int) -> Job:
    """One AttrOP iteration with quality and yaw: forward, and backward to the vectors, which costs as much again."""
    generator, vectors, mask = make_generator(preset, device, dtype, batch_size)
    encoder, quality = (IResNet().for_inference(device, dtype) for _ in range(2))
    pose = SixDRepNet().for_inference(device, dtype)
    targets = [quality_target(quality, 27), yaw_target(pose, 60)]
    attrop = AttrOP(generator, encoder, targets, batch_size=batch_size)

    def job() -> None:
        attrop.evaluate(vectors, vectors, mask).gradient()

    return Job(job, dict.fromkeys((generator, encoder, quality, pose), 2))


def training_job(preset: str, device: torch.device, dtype: torch.dtype, batch_size: int) -> Job:
    """One training step without the GAN.

    The generator runs forward, and backward to its weights and inputs at twice the cost; the identity and LPIPS losses
    run forward and backward to the image, and LPIPS once more forward on the photo.
    """
    torch.manual_seed(0)
    generator = Vec2Face(PRESETS[preset]).to(device, memory_format=torch.channels_last)
    encoder = IResNet().for_inference(device, dtype)
    perceptual = LPIPS(make_layers(cfgs["D"]).state_dict()).to(device)
    criterion = GeneratorLoss(encoder, perceptual).to(device)
    optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-6, fused=True)
    precision = Precision(autocast_dtype=None if dtype == torch.float32 else dtype)
    vectors = torch.randn(batch_size, 512, device=device)
    mask = TokenMask.from_noise(torch.rand(batch_size, 49), 0.5, 0.75).to(device)
    real = torch.rand(batch_size, 3, 112, 112, device=device).contiguous(memory_format=torch.channels_last)

    def job() -> None:
        with precision.autocast(device):
            terms = criterion(generator(vectors, mask), real, vectors)
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()

    return Job(job, {generator: 3, encoder: 2, perceptual.features: 1.5})  # LPIPS runs twice forward, once backward


def make_generator(
    preset: str, device: torch.device, dtype: torch.dtype, batch_size: int
) -> tuple[Vec2Face, torch.Tensor, TokenMask]:
    """A generator with random weights, random vectors (batch_size, 512) and a token mask for them."""
    torch.manual_seed(0)
    generator = Vec2Face(PRESETS[preset]).for_inference(device, dtype)
    mask = TokenMask.from_noise(torch.rand(batch_size, 49), 0.1, 0.2).to(device)
    return generator, torch.randn(batch_size, 512, device=device), mask


def measure(
    work: Callable[..., Job], device: str, precision: str, preset: str, batch_size: int, repeats: int,
    compile: bool = False,
) -> TableRow:  # fmt: skip
    """One row of the table, without its share of the floor. ``compile``: compile the models with torch.compile."""
    device, dtype = set_formats(device, precision)
    keep_freed_memory(device)
    job, models = work(preset, device, dtype, batch_size)
    counts = zip(count_flops(job, list(models)), models.values(), strict=True)
    if compile:
        for model in models:
            model.forward = compiled(model.forward, device)
    seconds = fastest(job, device, repeats, warm_up=compile)  # without it, counting was the warm-up
    memory = peak_memory(device)
    scaled = [(conv * times, gemm * times) for (conv, gemm), times in counts]
    conv, gemm = (sum(flops) / batch_size / GIGA for flops in zip(*scaled, strict=True))
    return {
        "work": work.__name__.removesuffix("_job"),
        "precision": precision,
        "compiled": compile,
        "images_per_second": batch_size / seconds,
        "seconds_per_image": seconds / batch_size,
        "conv_gflops": conv,
        "gemm_gflops": gemm,
        "memory_gb": memory / GIGA,
    }


def with_share_of_floor(row: TableRow, conv_peak: float, gemm_peak: float) -> TableRow:
    """The row with both peaks (GFLOP/s) and its share of the floor."""
    floor = row["conv_gflops"] / conv_peak + row["gemm_gflops"] / gemm_peak  # seconds per image
    return row | {"conv_peak": conv_peak, "gemm_peak": gemm_peak, "share_of_floor": floor / row["seconds_per_image"]}


def accepted_per_minute(device: str, precision: str, batch_size: int, batches: int) -> dict[str, float]:
    """Accepted images per minute of AttrOP: with rows replaced as soon as they end, and with batches in lockstep."""
    device, dtype = set_formats(device, precision)
    keep_freed_memory(device)
    generator = load_vec2face(DEMO / "vec2face_generator.pth", device, dtype)
    encoder = load_face_encoder(DEMO / "face_encoder.pth", device, dtype)
    vectors = np.load(DEMO / "identity_vectors.npy")[: batches * batch_size]
    attrop = AttrOP(generator, encoder, [quality_target(encoder, DEMO_QUALITY)], batch_size=batch_size, max_iters=30)

    def rows() -> Iterator[Row]:
        for number, vector in enumerate(vectors):
            stream = identity_stream(0, number)
            yield Row(number, vector, vector, lambda stream=stream: MaskRates().draw(stream))

    def per_minute(runs: Iterable[Iterable[Row]]) -> float:
        start = time.perf_counter()
        accepted = sum(result.accepted for run in runs for result in attrop.run(run))
        return 60 * accepted / (time.perf_counter() - start)

    list(attrop.run(islice(rows(), batch_size)))  # warm up
    waiting = rows()
    lockstep = per_minute(list(islice(waiting, batch_size)) for _ in range(batches))
    return {"refilled": per_minute([rows()]), "in_lockstep": lockstep}


def sampling_speed(device: str, count: int) -> dict[str, float]:
    """Seconds to sample ``count`` well-separated identity vectors and to check all pairs, and the share of the floor.

    The floor is one product per pair, count² x 512 FLOPs (a multiplication and an addition for half of the pairs),
    at the peak of such products.
    """
    block, others = torch.randn(2048, 512, device=device), torch.randn(512, 16384, device=device)
    product = fastest(lambda: block @ others, torch.device(device), 3)
    peak = 2 * block.shape[0] * block.shape[1] * others.shape[1] / product
    start = time.perf_counter()
    vectors = np.concatenate([v for _, v in sample_apart(GaussianSampler(), count, 0.3, 0, device=device)])
    similarity_of_pairs(vectors, device)
    seconds = time.perf_counter() - start
    return {"count": count, "seconds": seconds, "share_of_floor": count**2 * 512 / peak / seconds}


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes, of the GPU's allocator or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def count_flops(job: Callable[[], None], models: list[nn.Module]) -> list[list[int]]:
    """[convolution, matrix product] FLOPs of all forward passes of each model in a call of ``job``, layer by layer.

    The products inside attention and all element-wise operations are left out; savings by Upsample are not subtracted.
    """
    counts = {id(model): [0, 0] for model in models}

    def counter(model: nn.Module) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(layer, nn.Conv2d):
                kernel = layer.weight[0].numel()  # in / groups * k * k
                counts[id(model)][0] += 2 * output.numel() * kernel
            else:
                counts[id(model)][1] += 2 * output.numel() * layer.in_features

        return hook

    handles = [
        layer.register_forward_hook(counter(model))
        for model in models
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    job()
    for handle in handles:
        handle.remove()
    return list(counts.values())


def format_table(rows: list[TableRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| work | precision | images/s | s an image | share of the floor | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        work = f"{row['work']}, compiled" if row["compiled"] else row["work"]
        lines.append(
            f"| {work} | {row['precision']} | {row['images_per_second']:.2f} | {row['seconds_per_image']:.3f} "
            f"| {row['share_of_floor']:.0%} | {row['memory_gb']:.1f} GB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
