import json

import torch

from models import TokenMask, load_vec2face
from scripts import benchmark, convert_weights


def test_convert_there_and_back(demo, tmp_path, generator):
    own, released = tmp_path / "own.pth", tmp_path / "released.pth"
    convert_weights.main([str(demo.generator), str(own), "--to", "own"])
    convert_weights.main([str(own), str(released), "--to", "released"])
    before = torch.load(demo.generator, weights_only=True)["model_vec2face"]
    after = torch.load(released, weights_only=True)["model_vec2face"]
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    for key, value in before.items():
        if not key.startswith(("center_token", "patch_embed")):
            assert torch.equal(value.to(after[key].dtype), after[key]), key
    assert torch.load(own, weights_only=True)["model"] == "vec2face_vit_tiny"

    vectors, mask = torch.randn(2, 512), TokenMask.from_noise(torch.rand(2, 49), 0.1, 0.3)
    for path in (own, released):
        assert torch.equal(load_vec2face(path)(vectors, mask).images, generator(vectors, mask).images)


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


def test_flop_counts_of_the_base_models():
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
