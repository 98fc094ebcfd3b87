"""A head that is split over processes against the whole head."""

import pytest
import torch
from kept_tensors import shapes_kept_by
from processes import run_script

from models.errors import UserError
from models.heads import make_head
from models.sharded_head import ShardedHead


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_losses_and_gradients_of_a_sharded_head_are_those_of_the_whole_head(processes):
    """All heads, mixtures, a process with fewer images than the others, and samples of the classes."""
    result = run_script("tests/sharded_ranks.py", ranks=processes, environment={"OMP_NUM_THREADS": "1"})
    assert result.stdout.count("agrees") == processes


def test_a_step_keeps_one_tensor_of_images_times_classes_and_none_of_the_labels():
    head, features = ShardedHead(make_head("arcface", 64, width=8), 4), torch.randn(4, 8, requires_grad=True)
    assert shapes_kept_by(head, features, torch.arange(4)).count((4, 64)) == 1


@pytest.mark.parametrize("label", [0, 1])
def test_a_loss_stays_finite_where_the_own_class_is_far_below_the_others(label):
    head = ShardedHead(make_head("magface", 2, width=4), 1)
    head.init_from_centroids(torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]]))
    features = torch.tensor([[20.0, 0, 0, 0]], requires_grad=True)
    loss = head(features, torch.tensor([label]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert features.grad.isfinite().all()


def test_more_processes_than_classes_are_refused():
    with pytest.raises(UserError, match="4 processes for 3 identities"):
        ShardedHead(make_head("arcface", 3), 2, 0, 4)
