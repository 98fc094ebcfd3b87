"""A program of several processes, for test_sharded_head.py: each compares its share of a head with the whole head."""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli.command import command

import torch

from models.heads import HEADS, make_head
from models.sharded_head import ShardedHead
from utils.runtime.distributed import init_distributed

CLASSES, WIDTH, ROWS = 11, 16, 4


def compare(name, mixed, counts, world, **options):
    """One step of a head on ``counts[r]`` images of each process r: all losses and gradients are the whole head's."""
    torch.manual_seed(5)
    whole = make_head(name, CLASSES, WIDTH, **options)
    sharded = ShardedHead(make_head(name, CLASSES, WIDTH, **options), ROWS, world.rank, world.size)
    with torch.no_grad():
        sharded.head.load_state_dict(whole.state_dict() | {"directions": sharded.own_rows(whole.directions)})
    features, weight = 20 * torch.rand(world.size, ROWS, WIDTH), torch.rand(world.size, ROWS)
    first, second = torch.randint(CLASSES, (2, world.size, ROWS))

    def losses_of(head, features, *rest):
        first, second, weight = rest
        if not mixed:
            return head(features, first)
        return weight * head(features, first) + (1 - weight) * head(features, second)

    def step(head, *tensors):
        features = tensors[0].clone().requires_grad_()
        losses = losses_of(head, features, *tensors[1:])
        losses.mean().backward()
        return losses.detach(), features.grad, head.directions.grad

    kept = [torch.arange(count) for count in counts]
    columns = (features, first, second, weight)
    # Gradients are averaged over the processes, each of which takes the mean over its own images.
    together = [torch.cat([column[rank, own] for rank, own in enumerate(kept)]) for column in columns]
    inputs = together[0].clone().requires_grad_()
    losses = losses_of(whole, inputs, *together[1:]).split(counts)
    sum(own.mean() for own in losses).div(world.size).backward()

    own_losses, own_features, own_directions = step(sharded, *(c[world.rank, kept[world.rank]] for c in columns))
    context = f"{name} {options} {'mixed' if mixed else ''} {counts}"
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5, msg=lambda m: f"{context}: {m}")  # noqa: E731
    close(own_losses, losses[world.rank].detach())
    close(own_features / world.size, inputs.grad.split(counts)[world.rank])
    close(own_directions, sharded.own_rows(whole.directions.grad))
    gathered = sharded.whole(sharded.directions.detach())
    assert (gathered is None) == (world.rank > 0)
    if gathered is not None:
        assert torch.equal(gathered, whole.directions.detach())
    if name == "adaface" and sum(counts) == world.size * ROWS:  # its statistics are those of the whole batch
        close(sharded.head.mean, whole.mean)
        close(sharded.head.deviation, whole.deviation)


def sample(world):
    """With a sample the loss is that over the classes of the images and others, which are drawn anew each time."""
    torch.manual_seed(5 + world.rank)
    head = ShardedHead(make_head("cosface", 400, WIDTH), ROWS, world.rank, world.size, 0.3)
    features, labels = torch.rand(ROWS, WIDTH), torch.randint(400, (ROWS,))
    touched, losses = [], []
    for _ in range(2):
        head.directions.grad = None
        loss = head(features, labels)
        loss.mean().backward()
        touched.append(head.directions.grad.abs().sum(1) > 0)  # (c,)
        losses.append(loss.detach())
    expected = round(0.3 * len(head.share))
    assert all(rows.sum() <= expected for rows in touched)
    assert not torch.equal(*touched)
    everyones = torch.stack([torch.tensor(other) for other in world.gather(labels.tolist())]).flatten()
    for label in everyones.tolist():
        if label in head.share:
            assert all(rows[label - head.share.start] for rows in touched)
    assert all(loss.isfinite().all() for loss in losses)


@command
def main(argv=None):
    world = init_distributed()
    full, broken = [ROWS] * world.size, [ROWS] * (world.size - 1) + [ROWS - 1]
    for name, mixed in product(HEADS, (False, True)):
        compare(name, mixed, full, world)
    compare("arcface", False, full, world, straight_through=True)
    compare("magface", False, full, world, easy_margin=True)
    compare("arcface", False, broken, world)
    sample(world)
    print(f"rank {world.rank} agrees", flush=True)


if __name__ == "__main__":
    main()
