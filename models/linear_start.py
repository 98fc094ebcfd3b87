"""Initialisation of a generator as a linear map from vectors to images, for machines that are too slow to learn one.

The mean image of a vector is nearly a linear function of the vector, which least squares determines in a second.
Gradient descent in a transformer needs much longer, because all 49 rows of the feature map share their weights: a
different linear map for each row has to be composed of hidden units that respond in one row only. This module writes
such units into the weights, row by row. All residual branches that it does not use are initialised with zero. The
image decoder is left to training.

A row consists of four parts, in this order:

    z          uncorrelated functions of the vector, of unit variance, that predict the image best
    constant   two large numbers of opposite sign, so that layer norms divide all rows by nearly the same number
    position   one-hot code of the row, which activates the row's hidden units
    patch      principal components of the row's patch of the image, to which the hidden units add
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.masking import MAP_SIDE, ROWS, TokenMask
from models.vec2face import Vec2Face

FIT_SIDE = 56  # pixels along an edge of the images that the map is fitted to
PATCH = FIT_SIDE // MAP_SIDE  # 8 x 8 pixels for each row
GATE = 6.0  # pre-activation of an active hidden unit, and minus that of an inactive one: GELU is linear or 0 there
POSITION = 8.0  # size of the one-hot code
PATCH_SCALE = 0.5  # standard deviation of the first component in the patch part: small beside the constant
SMALLEST_STD = 1e-3  # lower bound of the standard deviation of a channel of the map
RIDGE = 1e-3  # regularisation, as a fraction of the mean variance


@torch.no_grad()
def linear_start(generator: Vec2Face, vectors: Tensor, images: Tensor, sigma: float, seed: int = 0) -> float:
    """Write the linear map from ``vectors`` (N, 512) to ``images`` (N, 3, 112, 112) in [-1, 1] into a generator's fMAE.

    ``sigma``: standard deviation of the noise on the vectors for which the map is optimal (.3 to .7 in generation), so
    that it does not rely on directions that the noise hides. N should be several thousand. The image decoder is
    unchanged. Returns the fraction of the patches' variance that the map explains. Raises ValueError if the encoder and
    the decoder of the fMAE have different widths.
    """
    width = generator.architecture.width
    if generator.architecture.decoder_width != width:
        raise ValueError("a linear start needs an encoder and a decoder of the same width")
    random = torch.Generator().manual_seed(seed)
    noisy = vectors + sigma * torch.randn(vectors.shape, generator=random)  # (N, 512)
    small = F.interpolate(images, size=FIT_SIDE, mode="area")  # (N, 3, 56, 56)
    patches = rearrange(small, "n c (h p) (w q) -> n (h w) (c p q)", p=PATCH, q=PATCH)  # (N, 49, 192)
    layout = RowLayout(width)
    components = principal_components(patches, layout.patch_width)  # (N, 49, patch)
    fit_input_layer(generator, layout, noisy, small.flatten(1))  # (N, 3 * 56 * 56)
    make_identity_path(generator, layout)
    explained = fit_patch_units(generator, layout, noisy, components * PATCH_SCALE)
    fold_in_wiener_filter(generator.expander.to_feature, vectors, sigma)
    return explained


class RowLayout:
    """The slices of the four parts in a row of ``width`` numbers."""

    def __init__(self, width: int):
        self.patch_width = min(width // 2 - ROWS - 2, 3 * PATCH * PATCH)
        self.z_width = width - self.patch_width - ROWS - 2
        self.z = slice(0, self.z_width)
        self.constant = slice(self.z_width, self.z_width + 2)
        self.position = slice(self.z_width + 2, self.z_width + 2 + ROWS)
        self.patch = slice(self.z_width + 2 + ROWS, width)


def principal_components(patches: Tensor, count: int) -> Tensor:
    """The first principal components (N, 49, count) of patches (N, 49, P), the first of unit variance."""
    flat = patches.flatten(0, 1)  # (N * 49, P)
    flat = flat - flat.mean(0)
    values, directions = torch.linalg.eigh(flat.T @ flat / len(flat))  # ascending
    values, directions = values.flip(0)[:count], directions.flip(1)[:, :count]  # (count,), (P, count)
    return (flat @ directions / values[0].sqrt()).view(*patches.shape[:2], count)  # (N, 49, count)


def fit_input_layer(generator: Vec2Face, layout: RowLayout, vectors: Tensor, images: Tensor) -> None:
    """Set the first layer to the directions of vectors (N, 512) that predict images (N, pixels) best.

    This is reduced-rank regression.
    """
    mean = vectors.mean(0)
    centred = vectors - mean  # (N, 512)
    covariance = with_ridge(centred.T @ centred / len(vectors))  # (512, 512)
    root = torch.linalg.cholesky(covariance)  # covariance = root @ root.T
    shared = centred.T @ (images - images.mean(0)) / len(vectors)  # (512, pixels)
    shared = torch.linalg.solve_triangular(root, shared, upper=False)  # (512, pixels)
    directions = torch.linalg.eigh(shared @ shared.T)[1].flip(1)  # (512, 512), most predictive first
    weights = torch.linalg.solve_triangular(root.T, directions[:, : layout.z_width], upper=True)  # (512, z)
    layer = generator.expander.to_feature
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[layout.z] = weights.T
    layer.bias[layout.z] = -mean @ weights
    layer.bias[layout.constant] = torch.tensor([1.0, -1.0]) * layout.z_width**0.5
    generator.expander.to_rows.weight.fill_(1)  # every row begins as the image feature, masked or not
    generator.expander.to_rows.bias.zero_()


def fold_in_wiener_filter(layer: nn.Linear, vectors: Tensor, sigma: float) -> None:
    """Make a first layer respond to the most likely clean vector behind a vector with noise of ``sigma``.

    The filter is x -> mean + C (C + sigma^2 I)^-1 (x - mean), with C the covariance of the vectors. Without it, noise
    exceeds the signal in directions in which vectors hardly vary, and faces fall apart at sigma .5.
    """
    vectors, weight = vectors.double(), layer.weight.double()  # (N, 512), (D, 512)
    mean = vectors.mean(0)
    covariance = (vectors - mean).T @ (vectors - mean) / len(vectors)  # (512, 512)
    noise = (sigma**2 + 1e-6) * torch.eye(len(covariance), dtype=torch.double)
    filtered = weight @ torch.linalg.solve(covariance + noise, covariance).T  # (D, 512)
    layer.bias += ((weight - filtered) @ mean).float()
    layer.weight.copy_(filtered)


def make_identity_path(generator: Vec2Face, layout: RowLayout) -> None:
    """Make all layers between the first one and the map the identity, and the decoder's positions one-hot."""
    generator.encoder.positions.zero_()
    for block in [*generator.encoder.blocks, *generator.decoder.blocks]:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.zero_()
            layer.bias.zero_()
    for layer in (generator.decoder.embed, generator.to_map):
        torch.nn.init.eye_(layer.weight)
        layer.bias.zero_()
    positions = generator.decoder.positions  # (1, 50, D)
    positions.zero_()
    positions[0, 1:, layout.position] = torch.eye(ROWS) * POSITION


def fit_patch_units(generator: Vec2Face, layout: RowLayout, vectors: Tensor, components: Tensor) -> float:
    """Give each row hidden units of its own that add the missing part of its patch, block after block.

    ``components`` (N, 49, patch): the targets. Returns the fraction of their variance that is explained.
    """
    generator.decoder.positions[0, 1:, layout.patch] = components.mean(0)
    mask = TokenMask.from_noise(torch.zeros(len(vectors), ROWS), 1.0, 1.0)
    encoded = generator.encoder(*generator.expander(vectors), mask)  # (N, 1, D): no row is kept
    tokens = generator.decoder.restore_masked_tokens(encoded, mask)  # (N, 50, D)
    for block in generator.decoder.blocks:
        hidden = block.norm2(tokens)[:, 1:]  # (N, 49, D): the input of the MLP, as attention adds nothing yet
        missing = components - tokens[:, 1:, layout.patch]  # (N, 49, patch)
        count = block.mlp.fc1.out_features // (2 * ROWS) * 2  # hidden units of each row, in pairs
        for row in range(ROWS):
            units = slice(row * count, (row + 1) * count)
            write_row_units(block.mlp, units, layout, hidden, missing, row)
        tokens = block(tokens)
    equalise_map(generator, tokens)
    missing = components - tokens[:, 1:, layout.patch]  # (N, 49, patch)
    return 1 - float(missing.square().mean() / components.var(0).mean())


def equalise_map(generator: Vec2Face, tokens: Tensor) -> None:
    """Standardise each channel of the map that varies to mean 0 and variance 1. ``tokens``: (N, 50, D)."""
    rows = generator.to_map(generator.decoder.norm(tokens)[:, 1:]).flatten(0, 1)  # (N * 49, 256)
    mean, std = rows.mean(0), rows.std(0).clamp(min=SMALLEST_STD)
    generator.to_map.weight /= std[:, None]
    generator.to_map.bias.copy_(-mean / std)


def write_row_units(mlp: nn.Module, units: slice, layout: RowLayout, hidden: Tensor, missing: Tensor, row: int) -> None:
    """Set hidden units that respond in one row only to the best linear map of their rank from z to ``missing``.

    ``units``: their indices. ``hidden`` (N, 49, D): input of the MLP. ``missing`` (N, 49, patch): target of its output.
    """
    z, target = hidden[:, row, layout.z], missing[:, row] - missing[:, row].mean(0)  # (N, z), (N, patch)
    centred = z - z.mean(0)
    fit = torch.linalg.solve(with_ridge(centred.T @ centred), centred.T @ target)  # (z, patch)
    fitted = centred @ fit  # (N, patch)
    pairs = (units.stop - units.start) // 2
    directions = torch.linalg.eigh(fitted.T @ fitted)[1].flip(1)[:, :pairs]  # (patch, pairs)
    weights = fit @ directions  # (z, pairs)
    std = (centred @ weights).std(0).clamp(min=1e-8)  # (pairs,)
    weights = torch.cat([weights, -weights], dim=1) / std.repeat(2)  # (z, units): pairs, whose gates cancel
    column = layout.position.start + row
    on, off = hidden[:, row, column].mean(), hidden[:, row - 1, column].mean()
    gate = 2 * GATE / (on - off)
    mlp.fc1.weight[units, layout.z] = weights.T
    mlp.fc1.weight[units, column] = gate
    mlp.fc1.bias[units] = GATE - gate * on - z.mean(0) @ weights
    # (patch, units)
    mlp.fc2.weight[layout.patch, units] = torch.cat([directions, -directions], dim=1) * std.repeat(2) / 2


def with_ridge(matrix: Tensor) -> Tensor:
    """A covariance matrix (D, D) with a ridge on its diagonal."""
    return matrix + RIDGE * matrix.diagonal().mean() * torch.eye(len(matrix))
