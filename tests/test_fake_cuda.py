"""What stands for a GPU in the tests is faithful where it can be."""

import pytest
import torch
from fake_cuda import backward, fake_cuda


def small_loss(net, x):
    parts = net(x).chunk(2, dim=1)  # (4, 3) twice
    return torch.where(x[:, :1] > 0, parts[0], parts[1].detach() + 1).square().sum() + net[0].bias.sum()


def test_backward_by_hand_gives_the_gradients_of_the_autograd_engine():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.LayerNorm(8), torch.nn.SiLU(), torch.nn.Linear(8, 6))
    x = torch.randn(4, 5)
    small_loss(net, x).backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    backward(small_loss(net, x))
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_tensors_of_two_devices_may_not_meet():
    with fake_cuda(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device="cuda") + torch.ones(3)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: torch.ones(3).copy_(x),
    ],
    ids=["item", "bool", "cpu", "mask", "copy"],
)
def test_each_read_of_a_value_counts_as_one_wait(read):
    with fake_cuda() as waits:
        read(torch.ones(3, device="cuda"))
    assert waits.counts["reads"] == 1


def test_copies_that_do_not_wait_are_counted_apart():
    with fake_cuda() as waits:
        torch.ones(3).to("cuda", non_blocking=True).to("cpu", non_blocking=True)
    assert waits.counts == {"pinned": 1, "downloads": 1}
    with fake_cuda() as waits:
        torch.ones(3).to("cuda")
    assert waits.counts == {"uploads": 1}


def test_autocast_is_on_as_on_a_gpu():
    with fake_cuda(), torch.autocast("cuda", torch.float16):
        assert (torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).dtype == torch.float16
