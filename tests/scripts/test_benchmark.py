"""The benchmark: what it measures, how it times a GPU, and the operations it counts."""

import json
import shutil

import pytest
import torch

from models import TokenMask
from scripts import benchmark


@pytest.mark.slow
def test_benchmark_measures_and_writes(tmp_path, capsys):
    flags = [
        "--model",
        "vec2face_vit_tiny",
        "--batch_size",
        "1",
        "--precision",
        "fp32",
        "--repeats",
        "1",
        "--device",
        "cpu",
        "--identities",
        "500",
        "--output",
    ]
    benchmark.main([*flags, str(tmp_path / "b.json")])
    content = json.loads((tmp_path / "b.json").read_text())
    assert [row["work"] for row in content["rows"]] == ["decode", "attrop", "training"]
    for row in content["rows"]:
        assert row["images_per_second"] > 0
        assert 0 < row["share_of_floor"] < 2
        assert row["memory_gb"] > 0.1
    assert content["sampling"]["share_of_floor"] > 0
    assert all(number > 0 for number in content["accepted_per_minute"].values())
    assert "| decode | fp32 |" in capsys.readouterr().out


class SimulatedGpu:
    """A queue of calls of which each takes ``work`` seconds on the GPU and ``launch`` seconds of the host's time."""

    def __init__(self, work, launch, wait=50e-6):
        self.work, self.launch, self.wait = work, launch, wait
        self.host = self.gpu = 0.0  # clock of the host; when the GPU will have done all its work

    def call(self):
        self.host += self.launch
        self.gpu = max(self.gpu, self.host) + self.work

    def synchronize(self):
        self.host = max(self.host, self.gpu) + self.wait

    def event(self, enable_timing):
        assert enable_timing
        gpu = self

        class Event:
            def record(self):
                self.time = max(gpu.gpu, gpu.host)

            def synchronize(self):
                gpu.synchronize()

            def elapsed_time(self, end):
                return 1000 * (end.time - self.time)

        return Event()


@pytest.mark.parametrize("work", [20e-6, 2e-3, 0.7])
def test_on_a_gpu_the_work_is_timed_and_not_its_launch(work, monkeypatch):
    gpu = SimulatedGpu(work, launch=10e-6)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
    assert benchmark.fastest(gpu.call, torch.device("cuda"), 3) == pytest.approx(work, rel=0.01)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_models_are_timed_beside_eager_ones():
    flags = ("cpu", "fp32", "vec2face_vit_tiny", 1, 1)
    eager, compiled = (benchmark.measure(benchmark.decode_job, *flags, compile) for compile in (False, True))
    assert (eager["compiled"], compiled["compiled"]) == (False, True)
    assert eager["conv_gflops"] == compiled["conv_gflops"]
    assert "| decode, compiled | fp32 |" in benchmark.format_table([compiled | {"share_of_floor": 1}])


def test_the_operations_of_the_base_models_are_those_that_the_paper_goes_by():
    """The figures design and paper go by: an image of the base generator, IResNet-100, 6DRepNet."""
    from models.iresnet import IResNet
    from models.sixdrepnet import SixDRepNet
    from models.vec2face import PRESETS, Vec2Face

    with torch.device("meta"):
        generator, encoder, pose = Vec2Face(PRESETS["vec2face_vit_base_patch16"]), IResNet().eval(), SixDRepNet()
    mask = TokenMask.from_noise(torch.rand(1, 49), 0.1, 0.2).to("meta")

    def job():
        generator(torch.empty(1, 512, device="meta"), mask)
        encoder(torch.empty(1, 3, 112, 112, device="meta"))
        pose(torch.empty(1, 3, 112, 112, device="meta"))

    (conv, gemm), *others = benchmark.count_flops(job, [generator, encoder, pose])
    assert round(conv / 1e9, 1) == 35.7
    assert round(gemm / 1e9, 1) == 13.4
    assert [round(sum(count) / 1e9, 1) for count in others] == [24.2, 4.5]
