"""A margin head whose class directions are split over the processes of a run (PartialFC; An et al., 2022).

At 300,000 identities the directions, their gradients and their momentum take 1.8 GB, which every process would hold,
and 0.6 GB of gradients would be averaged in every step. Here a process holds its share of the classes, and what travels
is the features of the batch and a few numbers per image.
"""

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from models.errors import UserError
from models.heads import SCALE, CosineClassifier


class ShardedHead(nn.Module):
    """The head of which this process, ``rank`` of ``size``, holds the directions of its share of the classes.

    The losses are those of the whole head, up to rounding, and so are the gradients once DistributedDataParallel has
    averaged those of the backbone over the processes. The directions must be left out of that: their gradients are the
    averages already. ``rows``: largest number of images of a process in a step. ``sample_rate``: share of the classes
    that a step compares with, drawn at random; the classes of its images are always among them, and so are at least
    as many classes in all as there are images.

    Every process has to call this equally often. Raises UserError when there are more processes than classes.
    """

    def __init__(self, head: CosineClassifier, rows: int, rank: int = 0, size: int = 1, sample_rate: float = 1.0):
        super().__init__()
        self.classes, self.rows, self.rank, self.size = head.classes, rows, rank, size
        if size > self.classes:
            raise UserError(
                f"--sharded_head: {size} processes for {self.classes} identities; use as many processes at most."
            )
        self.shares = [range(self.classes * r // size, self.classes * (r + 1) // size) for r in range(size)]
        self.sample_rate = sample_rate
        self.head = head
        head.directions = nn.Parameter(self.own_rows(head.directions.detach()).clone())

    @property
    def share(self) -> range:
        """The classes whose directions this process holds."""
        return self.shares[self.rank]

    @property
    def directions(self) -> nn.Parameter:
        """The directions (c, D) of this process's classes."""
        return self.head.directions

    def init_from_centroids(self, centroids: torch.Tensor) -> None:
        """Set the directions of this process's classes to their centroids (c, D)."""
        self.head.init_from_centroids(centroids)

    @torch.compiler.disable
    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The losses (B,) of this process's features (B, D) and labels (B,)."""
        everyones, labels_of_all = self._gathered(features, labels)  # (N, D), (N,)
        places = (labels_of_all - self.share.start).clamp(0, len(self.share) - 1)  # (N,), right where the class is here
        here = labels_of_all == places + self.share.start  # (N,)
        directions, columns = self._sampled(places, here)  # (s, D), (N,)
        unit, unit_directions = F.normalize(everyones), F.normalize(directions)  # (N, D), (s, D)
        cosines = (unit * unit_directions[columns]).sum(1)  # (N,), meaningful where the class is here
        lowered = self.head.with_margin(cosines, everyones)  # (N,)
        losses = ShardedCrossEntropy.apply(unit, unit_directions, lowered, columns, here, self.size)  # (N,)
        first = self.rank * self.rows
        return losses[first : first + len(labels)] + self.head.regulariser(features)

    def _gathered(self, features, labels):
        """The features (N, D) and labels (N,) of all processes, N = size * rows.

        A process that has fewer images than ``rows`` repeats some of them, with the label -1, which no class has.
        """
        count = len(labels)
        if count < self.rows:
            features = features[torch.arange(self.rows, device=features.device) % count]  # (rows, D)
            labels = F.pad(labels, (0, self.rows - count), value=-1)  # (rows,)
        if self.size == 1:
            return features, labels
        labels_of_all = labels.new_empty(self.size * self.rows)
        dist.all_gather(list(labels_of_all.chunk(self.size)), labels)
        return GatheredRows.apply(features, self.rank, self.size), labels_of_all

    def _sampled(self, places, here):
        """The directions (s, D) to compare with, and the place of each image's class among them, (N,)."""
        classes = len(self.share)
        count = min(classes, max(round(self.sample_rate * classes), len(places)))  # the same in every step
        if count == classes:
            return self.directions, places
        with torch.no_grad():
            priority = torch.rand(classes, device=places.device)
            priority.scatter_reduce_(0, places, 2.0 * here, "amax")  # the classes of the images come first
            chosen = priority.topk(count).indices.sort().values  # (s,)
            columns = torch.searchsorted(chosen, places).clamp(max=count - 1)  # (N,)
        return self.directions[chosen], columns

    def own_rows(self, whole: torch.Tensor) -> torch.Tensor:
        """The rows of this process's classes, of one row per class."""
        return whole[self.share.start : self.share.stop]

    def whole(self, rows: torch.Tensor) -> torch.Tensor | None:
        """All classes' rows on the CPU, from each process's own; on rank 0 only, None on the others."""
        if self.rank:
            dist.send(rows.contiguous(), 0)
            return None
        result = torch.empty(self.classes, *rows.shape[1:], dtype=rows.dtype)
        for rank, share in enumerate(self.shares):
            piece = rows if rank == 0 else rows.new_empty(len(share), *rows.shape[1:])
            if rank:
                dist.recv(piece, rank)
            result[share.start : share.stop] = piece
        return result


class GatheredRows(torch.autograd.Function):
    """The rows (rows, D) of every process, (N, D); in the backward pass each gets the sum of all processes' gradients.

    The sum is multiplied by the number of processes, because ShardedCrossEntropy divides by it.
    """

    @staticmethod
    def forward(ctx, rows, rank, size):
        ctx.rank, ctx.size = rank, size
        gathered = rows.new_empty(size * len(rows), rows.shape[1])
        dist.all_gather(list(gathered.chunk(size)), rows.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # (N, D)
        dist.all_reduce(gradient)
        return ctx.size * gradient.chunk(ctx.size)[ctx.rank], None, None


class ShardedCrossEntropy(torch.autograd.Function):
    """The cross entropy (N,) over the classes of all processes, of which this one has ``directions``.

    ``unit`` (N, D) and ``directions`` (s, D) have length 1. ``columns`` (N,): each image's own class among the
    directions, where ``here`` (N,) is true; its cosine is replaced by the one in ``lowered`` (N,). Every process gets
    all losses, and differentiates with respect to the mean over the processes. The probabilities are the only (N, s)
    tensor that is kept, and none is made of the labels.
    """

    @staticmethod
    def forward(ctx, unit, directions, lowered, columns, here, size):
        own = torch.arange(len(unit), device=unit.device), columns  # the place of the own class in each row
        logits = (unit @ directions.T).mul_(SCALE)  # (N, s)
        logits[own] = torch.where(here, SCALE * lowered, logits[own])
        largest = logits.amax(1)  # (N,)
        if size > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        of_own = torch.where(here, logits[own] - largest, 0.0)  # (N,), 0 on all processes but one
        probabilities = logits.sub_(largest[:, None]).exp_()  # (N, s), not yet divided by their sum
        sums = torch.stack([probabilities.sum(1), of_own])  # (2, N)
        if size > 1:
            dist.all_reduce(sums)
        total, of_own = sums
        ctx.save_for_backward(unit, directions, probabilities.div_(total[:, None]), *own, here)
        ctx.size = size
        return total.log() - of_own  # (N,)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        unit, directions, probabilities, *own, here = ctx.saved_tensors
        if ctx.size > 1:  # each process has the gradients of its own images; the others' are zero
            gradient = gradient.contiguous().clone()  # (N,)
            dist.all_reduce(gradient)
            gradient = gradient / ctx.size
        of_logits = probabilities * gradient[:, None]  # (N, s)
        of_own = of_logits[tuple(own)]  # (N,)
        of_logits[tuple(own)] = torch.where(here, 0.0, of_own)
        of_lowered = torch.where(here, SCALE * (of_own - gradient), 0.0)  # (N,)
        of_logits.mul_(SCALE)
        return of_logits @ directions, of_logits.T @ unit, of_lowered, None, None, None
