"""Face encoders in the forms of other projects give the features that those projects' own networks give."""

import json
from collections import OrderedDict

import pytest
import torch
import torch.nn as nn
from filled import PARITY

from models.errors import UserError
from models.iresnet import DEPTHS, IResNet, load_face_encoder
from scripts import convert_weights

WIDTHS = (8, 16, 24, 32)
IMAGES = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1  # RGB in [-1, 1]


def trained(module, seed=0):
    """The module in eval mode, with numbers as training leaves them: no norm and no PReLU does nothing."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.02 * (1 + torch.rand(value.shape, generator=generator)))  # small: an epsilon shows
        elif value.is_floating_point() and value.dim() == 1:
            value.copy_(value + 0.1 * torch.randn(value.shape, generator=generator))
    return module.eval()


def features_agree(path, expected, tolerance=1e-4):
    with torch.no_grad():
        features = load_face_encoder(path)(IMAGES)
    assert (features - expected).abs().max() < tolerance * expected.abs().max()


class AdaFaceBlock(nn.Module):
    """Named and built as in AdaFace's repository: subsampling alone where the width stays."""

    def __init__(self, before, width, stride, se):
        super().__init__()
        self.shortcut_layer = nn.MaxPool2d(1, stride)
        if before != width:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(before), nn.Conv2d(before, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
            nn.PReLU(width), nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        if se:
            self.res_layer.add_module("se_block", nn.Sequential(OrderedDict(fc1=nn.Conv2d(width, 1, 1))))

    def forward(self, x):
        return self.res_layer(x) + self.shortcut_layer(x)


class AdaFaceNetwork(nn.Module):
    """(N, 3, 112, 112) BGR in [-1, 1] -> the (N, 512) feature, before it is split in direction and norm."""

    def __init__(self, units, se=False):
        super().__init__()
        first = WIDTHS[0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(WIDTHS[-1]), nn.Dropout(0.4), nn.Flatten(), nn.Linear(WIDTHS[-1] * 49, 512),
            nn.BatchNorm1d(512, affine=False),
        )  # fmt: skip
        blocks, before = [], first
        for count, width in zip(units, WIDTHS, strict=True):
            for stride in [2] + [1] * (count - 1):
                blocks.append(AdaFaceBlock(before, width, stride, se))
                before = width
        self.body = nn.Sequential(*blocks)

    def forward(self, x):
        return self.output_layer(self.body(self.input_layer(x)))


def adaface_file(network, path):
    """As AdaFace's training writes it: the network beside its head."""
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 25, "state_dict": state | {"head.kernel": torch.ones(512, 7), "head.t": torch.ones(1)}}, path)


@pytest.mark.parametrize("units", [(2, 2, 2, 2), (1, 3, 2, 1)])
def test_an_official_adaface_checkpoint_gives_its_features(units, tmp_path):
    network = trained(AdaFaceNetwork(units))
    adaface_file(network, tmp_path / "adaface.ckpt")
    with torch.no_grad():
        features_agree(tmp_path / "adaface.ckpt", network(IMAGES.flip(1)))


def test_adaface_networks_of_other_blocks_are_refused_by_name(tmp_path):
    adaface_file(AdaFaceNetwork((1, 1, 1, 1), se=True), tmp_path / "ir_se.ckpt")
    with pytest.raises(UserError, match=r"ir_se.ckpt: an AdaFace network with squeeze-excitation .*IR-101 can be read"):
        load_face_encoder(tmp_path / "ir_se.ckpt")


def test_an_incomplete_adaface_file_is_refused_with_what_is_missing(tmp_path):
    network = trained(AdaFaceNetwork((1, 1, 1, 1)))
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    del state["model.body.1.res_layer.1.weight"]
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x.ckpt: not a face-recognition model .*missing layer2.0.conv1.weight"):
        load_face_encoder(tmp_path / "x.ckpt")


@pytest.mark.parametrize("prefix", ["features.module.", "module.features."])
def test_an_official_magface_checkpoint_gives_its_features(prefix, tmp_path):
    """Official MagFace: norms with an epsilon of 2e-5, and BGR images in [0, 1]."""
    network = trained(IResNet((1, 2, 1, 1), WIDTHS))
    state = {f"{prefix}{key}": value.clone() for key, value in network.state_dict().items()}
    torch.save({"epoch": 25, "state_dict": state | {"fc.weight": torch.ones(512, 7)}}, tmp_path / "magface.pth")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 2e-5
    with torch.no_grad():
        expected = network((IMAGES.flip(1) + 1) / 2)
    features_agree(tmp_path / "magface.pth", expected)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model."])
def test_an_iresnet_under_a_prefix_is_read(prefix, tmp_path):
    network = trained(IResNet((1, 2, 1, 1), WIDTHS))
    torch.save({f"{prefix}{key}": value for key, value in network.state_dict().items()}, tmp_path / "x.pth")
    with torch.no_grad():
        features_agree(tmp_path / "x.pth", network(IMAGES))


def convert(source, target, form):
    convert_weights.main([str(source), str(target), "--to", form])


@pytest.mark.parametrize("se", [False, True])
def test_the_released_form_of_an_encoder_is_a_plain_state_dict(se, tmp_path, capsys):
    """Exactly the keys and shapes of the FR-training repository's IResNet, tensors only."""
    network = trained(IResNet(DEPTHS[18], se=se))
    content = {"state_dict": network.state_dict(), "head": "arcface", "feature_norms": {"50%": 22.0}}
    torch.save(content, tmp_path / "m.pth")
    convert(tmp_path / "m.pth", tmp_path / "released.pth", "released")
    assert f"test.py --depth 18 --mode {'se' if se else 'normal'}" in capsys.readouterr().out
    released = torch.load(tmp_path / "released.pth", weights_only=True)
    shapes = {key: list(value.shape) for key, value in released.items()}
    manifest = json.loads((PARITY / "manifest_arcface_r50.json").read_text())
    expected = {key: shape for key, (shape, _) in manifest.items() if not key.startswith("layer") or block(key) < 2}
    if se:
        for stage, width in enumerate((64, 128, 256, 512), start=1):
            expected[f"layer{stage}.0.attn.fc1.weight"] = [width // 16, width, 1, 1]
            expected[f"layer{stage}.0.attn.fc2.weight"] = [width, width // 16, 1, 1]
    assert shapes == expected
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in released.items())
    with torch.no_grad():
        features_agree(tmp_path / "released.pth", network(IMAGES))


def block(key):
    return int(key.split(".")[1])


def test_encoders_that_the_released_form_cannot_hold_are_refused(demo, tmp_path, capsys):
    network = IResNet((1, 2, 1, 1), WIDTHS)
    state = {f"features.module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "magface.pth")
    cases = ((demo.encoder, "widths 64-128-256-512 only"), (tmp_path / "magface.pth", "Use the file as it is"))
    for source, message in cases:
        with pytest.raises(SystemExit):
            convert(source, tmp_path / "released.pth", "released")
        assert message in capsys.readouterr().err
        assert not (tmp_path / "released.pth").exists()


def test_adaface_in_our_form_gives_the_same_features(tmp_path):
    network = trained(AdaFaceNetwork((2, 1, 1, 1)))
    adaface_file(network, tmp_path / "adaface.ckpt")
    convert(tmp_path / "adaface.ckpt", tmp_path / "own.pth", "own")
    with torch.no_grad():
        features_agree(tmp_path / "own.pth", network(IMAGES.flip(1)))
