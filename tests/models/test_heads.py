"""Margin heads against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from kept_tensors import shapes_kept_by
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from pytorch_metric_learning.reducers import DoNothingReducer

from models.heads import HEADS, SCALE, make_head


def test_arcface_and_cosface_are_their_formulas():
    torch.manual_seed(0)
    features, labels = torch.randn(6, 512), torch.tensor([0, 1, 2, 3, 4, 0])
    for name, changed in (("arcface", lambda c: (c.acos() + 0.5).cos()), ("cosface", lambda c: c - 0.35)):
        head = make_head(name, 5)
        cosines = F.normalize(features) @ F.normalize(head.directions.detach()).T
        cosines[range(6), labels] = changed(cosines[range(6), labels])
        expected = F.cross_entropy(SCALE * cosines, labels, reduction="none")
        assert torch.allclose(head(features, labels), expected, atol=1e-3), name


def test_magface_has_its_margin_and_regulariser():
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


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_class_directions_begin_with_the_published_deviation(name, straight_through):
    torch.manual_seed(0)
    directions = make_head(name, 200, straight_through=straight_through).directions.detach()
    assert directions.shape == (200, 512)
    assert abs(directions.mean()) < 1e-4
    assert directions.std().item() == pytest.approx(0.01, rel=0.01)
    assert directions.norm(dim=1).mean().item() == pytest.approx(0.01 * math.sqrt(512), rel=0.01)


def at_angles(head, angles):
    """Features of norm 60 at these angles (N,) from the direction of class 0."""
    first, second = torch.linalg.qr(head.directions.detach()[:2].T)[0].T  # (512,) each, orthogonal
    first = first * torch.sign(first @ head.directions.detach()[0])
    return 60 * (angles.cos()[:, None] * first + angles.sin()[:, None] * second)  # (N, 512)


@pytest.mark.parametrize("easy", [False, True])
def test_easy_margin_leaves_out_magfaces_margin_beyond_a_right_angle(easy):
    torch.manual_seed(0)
    head, margin = make_head("magface", 4, easy_margin=easy), 0.625  # at norm 60
    angles = torch.tensor([0.5, 1.5, 1.7, 2.4, 3.0])
    features = at_angles(head, angles)
    cosines = F.normalize(features) @ F.normalize(head.directions.detach()).T  # (5, 4)
    beyond = angles.cos() if easy else (angles + margin).cos()
    own = torch.where(angles < math.pi / 2, (angles + margin).cos(), beyond)
    if not easy:
        own[-1] = angles[-1].cos() - margin * math.sin(margin)  # past pi
    cosines[:, 0] = own
    labels = torch.zeros(5, dtype=torch.long)
    expected = F.cross_entropy(SCALE * cosines, labels, reduction="none") + 20 * (60 / 110**2 + 1 / 60)
    assert torch.allclose(head(features, labels), expected, atol=2e-2)


def test_straight_through_arcface_has_the_same_loss_and_the_gradient_of_the_plain_cosine():
    torch.manual_seed(0)
    heads = {flag: make_head("arcface", 5, straight_through=flag) for flag in (False, True)}
    heads[True].load_state_dict(heads[False].state_dict())
    angle, labels = torch.tensor([1.2]), torch.tensor([0])
    gradients, losses = {}, {}
    for flag, head in heads.items():
        features = at_angles(head, angle).requires_grad_()
        losses[flag] = head(features, labels)
        logits = SCALE * F.normalize(features) @ F.normalize(head.directions.detach()).T  # (1, 5)
        logits[0, 0] = SCALE * math.cos(1.2 + 0.5)
        others = (logits.softmax(1)[:, 1:].detach() * logits[:, 1:]).sum()  # what the other classes pull with
        (whole,) = torch.autograd.grad(losses[flag].sum(), features)
        gradients[flag] = whole - torch.autograd.grad(others, features)[0]
    assert torch.allclose(losses[True], losses[False], rtol=1e-5)
    ratio = math.sin(1.2 + 0.5) / math.sin(1.2)
    assert torch.allclose(gradients[False], ratio * gradients[True], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_finite_gradients_at_the_ends_of_the_cosine(name):
    head = make_head(name, 3)
    direction = F.normalize(head.directions.detach()[:1])  # (1, 512)
    features = torch.cat([direction, -direction]).mul(20).requires_grad_()
    head(features, torch.tensor([0, 0])).sum().backward()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize(("name", "loss", "margin"), [("arcface", ArcFaceLoss, 28.6), ("cosface", CosFaceLoss, 0.35)])
def test_losses_and_gradients_are_those_of_pytorch_metric_learning(name, loss, margin):
    torch.manual_seed(0)
    head = make_head(name, 5, margin=math.radians(margin) if name == "arcface" else margin)
    reference = loss(5, 512, margin=margin, scale=SCALE, reducer=DoNothingReducer())
    reference.W.data = head.directions.detach().T.clone()
    angles, labels = torch.tensor([0.2, 1.0, 1.6, 2.5, 2.9]), torch.tensor([0, 0, 1, 2, 0])
    features, gradients = at_angles(head, angles), []
    for module in (head, reference):
        inputs = features.clone().requires_grad_()
        losses = module(inputs, labels) if module is head else module(inputs, labels)["loss"]["losses"]
        (losses * torch.arange(1, 6)).sum().backward()
        gradients.append((losses.detach(), inputs.grad))
    torch.testing.assert_close(*(losses for losses, _ in gradients), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*(gradient for _, gradient in gradients), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.directions.grad.T, reference.W.grad, rtol=1e-4, atol=1e-3)


def test_no_head_makes_more_tensors_of_all_classes_than_it_needs():
    """Logits, their softmax and gradients: at 300,000 classes each takes 0.6 GB for 512 images."""
    head, features = make_head("arcface", 64, width=8), torch.randn(4, 8, requires_grad=True)
    assert shapes_kept_by(head, features, torch.arange(4)).count((4, 64)) == 1


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_begins_at_the_centroids_has_less_than_half_the_loss(head):
    torch.manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(5, 16))
    module = make_head(head, 5, 16)
    labels = torch.arange(5)
    before = module(20 * centres, labels).mean()
    module.init_from_centroids(centres)
    assert module(20 * centres, labels).mean() < 0.5 * before
