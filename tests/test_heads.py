"""Margin heads against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from models.heads import HEADS, SCALE, make_head


def test_arcface_and_cosface_are_their_formulas():
    torch.manual_seed(0)
    features, labels = torch.randn(6, 512), torch.tensor([0, 1, 2, 3, 4, 0])
    for name, changed in (("arcface", lambda c: (c.acos() + 0.5).cos()), ("cosface", lambda c: c - 0.35)):
        head = make_head(name, 5)
        cosines = F.normalize(features) @ F.normalize(head.loss.W.detach(), dim=0)
        cosines[range(6), labels] = changed(cosines[range(6), labels])
        expected = F.cross_entropy(SCALE * cosines, labels, reduction="none")
        assert torch.allclose(head(features, labels), expected, atol=1e-3), name


def test_magface_margin_and_regulariser():
    torch.manual_seed(0)
    head, labels = make_head("magface", 4), torch.tensor([0, 1, 2])
    features = F.normalize(torch.randn(3, 512)) * torch.tensor([[5.0], [60.0], [200.0]])  # below, within, above bounds
    norms, margins = torch.tensor([10.0, 60.0, 110.0]), torch.tensor([0.45, 0.625, 0.8])
    cosines = F.normalize(features) @ F.normalize(head.directions.detach()).T
    cosines[range(3), labels] = (cosines[range(3), labels].acos() + margins).cos()
    expected = F.cross_entropy(SCALE * cosines, labels, reduction="none") + 20 * (norms / 110**2 + 1 / norms)
    assert torch.allclose(head(features, labels), expected, atol=1e-3)


def test_adaface_moves_the_margin_with_the_norm():
    torch.manual_seed(0)
    head, labels = make_head("adaface", 4).eval(), torch.tensor([0, 1, 2])
    head.mean.fill_(20.0)
    head.deviation.fill_(10.0)
    features = F.normalize(torch.randn(3, 512)) * torch.tensor([[5.0], [20.0], [80.0]])
    quality = ((torch.tensor([5.0, 20.0, 80.0]) - 20) / 10.001 * 0.333).clamp(-1, 1)
    cosines = F.normalize(features) @ F.normalize(head.directions.detach()).T
    own = (cosines[range(3), labels].acos() - 0.4 * quality).cos() - 0.4 * (1 + quality)
    cosines[range(3), labels] = own
    assert torch.allclose(head(features, labels), F.cross_entropy(SCALE * cosines, labels, reduction="none"), atol=1e-3)
    head.train()(features, labels)
    assert head.mean != 20.0


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_finite_gradients_at_the_ends_of_the_cosine(name):
    head = make_head(name, 3)
    directions = head.loss.W.T if hasattr(head, "loss") else head.directions
    features = torch.cat([directions.detach()[:1], -directions.detach()[:1]]).mul(20).requires_grad_()
    head(features, torch.tensor([0, 0])).sum().backward()
    assert features.grad.isfinite().all()
