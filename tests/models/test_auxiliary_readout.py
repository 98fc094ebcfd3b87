"""The readout of appearance and pose from features."""

import torch

from models.auxiliary_readout import AuxiliaryReadout


def test_the_readout_learns_under_sgd_from_features_that_are_alike():
    torch.manual_seed(0)
    readout = AuxiliaryReadout()
    optimizer = torch.optim.SGD(readout.parameters(), lr=0.1, momentum=0.9)
    features = 0.8 * torch.randn(512) + 0.6 * torch.randn(32, 512)  # (32, 512), of unit variance
    images, poses = 0.1 * torch.rand(32, 3, 112, 112), torch.randn(32, 2) * 30
    losses = []
    for _ in range(60):
        losses.append(readout(features, images, poses).mean())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]


def test_the_loss_grows_with_the_pose_error_and_ignores_unknown_poses():
    torch.manual_seed(0)
    readout, features = AuxiliaryReadout(8), torch.randn(4, 8)
    images, poses = torch.rand(4, 3, 112, 112), torch.tensor([[10.0, 5.0], [-10.0, 5.0], [0.0, torch.nan], [60.0, 0.0]])
    losses = readout(features, images, poses)
    assert losses.shape == (4,)
    assert losses.isfinite().all()
    far = readout(features, images, poses * 10)
    assert (far[[0, 1, 3]] > losses[[0, 1, 3]]).all()
    losses.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in readout.parameters())
