"""Learning-rate schedules, against torch's own."""

import pytest
import torch

from utils.training.schedules import cosine_restarts


@pytest.mark.parametrize(("first", "factor"), [(3, 2), (4, 1), (2, 3)])
def test_cosine_restarts_are_those_of_torch(first, factor):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, factor)
    for update in range(30):
        assert cosine_restarts(update, 0.5, first, factor) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
