"""--compile of the generation scripts. The backend is one that needs no C compiler; all before it is real."""

import json
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from paths import files_of

import image_generation


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without a compiler: programs are traced and their graphs run. A graph that breaks is an error."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))


def generate(demo, folder, *words):
    words = [
        *demo.models, "--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--max_iters", 2,
        "--image_quality", 26, "--example", 1, "--name", "x", "--output_dir", folder, "--no-measure", *words,
    ]  # fmt: skip
    image_generation.main([str(word) for word in words])


def pictures(folder):
    return np.stack([cv2.imread(str(folder / "x" / path)) for path in sorted(files_of(folder / "x"))]).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--skip_attrop"], pytest.param([], marks=pytest.mark.slow, id="attrop")])
def test_a_compiled_dataset_is_made_and_resumed_and_has_the_eager_images(more, demo, tmp_path, traced, capsys):
    generate(demo, tmp_path / "compiled", "--compile", "--start_end", "0:1", *more)
    generate(demo, tmp_path / "compiled", "--compile", "--start_end", "0:2", *more)
    assert "1 of 2 identities are there already" in capsys.readouterr().out
    generate(demo, tmp_path / "eager", "--start_end", "0:2", *more)
    compiled, eager = pictures(tmp_path / "compiled"), pictures(tmp_path / "eager")
    assert compiled.shape == (2, 112, 112, 3)
    assert np.abs(compiled - eager).mean() < 1
    settings = [
        json.loads((tmp_path / name / "x.about/settings.json").read_text())["settings"]
        for name in ("compiled", "eager")
    ]
    assert settings[0] == settings[1] | {"compile": True}
    with pytest.raises(SystemExit):
        generate(demo, tmp_path / "compiled", "--start_end", "0:3", *more)
    assert "compile is True there and None now" in capsys.readouterr().err


def test_without_a_compiler_nothing_is_begun(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "nowhere++")
    with pytest.raises(SystemExit):
        generate(demo, tmp_path, "--compile", "--start_end", "0:1")
    assert "needs a C++ compiler, and there is no nowhere++" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
