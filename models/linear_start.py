"""A generator that begins as a linear map from vector to image, for where there is no time to learn one.

The mean photo of a vector is nearly a linear function of it, which least squares finds in a second. Gradient descent
takes long to find it in a transformer: the same weights serve all 49 rows, so that a different linear map for every
row must be put together from hidden units that answer in one row only. That is what is written into the weights here,
row by row. All residual branches not used for it begin at zero. What is left for training is the image decoder.

A row of the map is made of four parts, in this order:

    z          what the vector tells about images: uncorrelated, of unit variance
    constant   two opposite large numbers, so that layer norms divide every row by nearly the same
    position   one-hot, switches the hidden units of the row on
    patch      principal components of the row's patch of the image: what the hidden units add
"""

import torch
import torch.nn.functional as F
from einops import rearrange

from models.masking import MAP_SIDE, ROWS, TokenMask

FIT_SIDE = 56  # pixels of the images that are fitted
PATCH = FIT_SIDE // MAP_SIDE  # 8 x 8 pixels a row
GATE = 6.0  # pre-activation of a hidden unit that is on, and minus that of one that is off: GELU is linear or 0 there
POSITION = 8.0  # of the one-hot part
PATCH_SCALE = 0.5  # of the patch part, in standard deviations of its first component: small beside the constant
SMALLEST_SPREAD = 1e-3  # of a channel of the map
RIDGE = 1e-3  # of the mean variance


@torch.no_grad()
def linear_start(generator, vectors, images, sigma, seed=0):
    """Write the linear map from ``vectors`` (N, 512) to ``images`` (N, 3, 112, 112) in [-1, 1] into a Vec2Face's fMAE.

    ``sigma``: noise on the vectors for which the map is best (paper section 3.3: .3 to .7), so that it does not build
    on what noise hides. The image decoder is left as it is. Returns the share of the patches' variance that is
    explained. N should be several thousand. Raises ValueError when encoder and decoder have different widths.
    """
    width = generator.architecture.width
    if generator.architecture.decoder_width != width:
        raise ValueError("a linear start needs an encoder and a decoder of the same width")
    random = torch.Generator().manual_seed(seed)
    noisy = vectors + sigma * torch.randn(vectors.shape, generator=random)  # (N, 512)
    small = F.interpolate(images, size=FIT_SIDE, mode="area")  # (N, 3, 56, 56)
    patches = rearrange(small, "n c (h p) (w q) -> n (h w) (c p q)", p=PATCH, q=PATCH)  # (N, 49, 192)
    parts = Parts(width)
    codes = principal_components(patches, parts.patch_width)  # (N, 49, patch)
    read_vectors(generator, parts, noisy, small.flatten(1))
    pass_through(generator, parts)
    explained = draw_patches(generator, parts, noisy, codes * PATCH_SCALE)
    expect_noise(generator.expander.to_feature, vectors, sigma)
    return explained


class Parts:
    """Where in a row of ``width`` numbers the parts stand, as slices."""

    def __init__(self, width):
        self.patch_width = min(width // 2 - ROWS - 2, 3 * PATCH * PATCH)
        z_width = width - self.patch_width - ROWS - 2
        self.z = slice(0, z_width)
        self.constant = slice(z_width, z_width + 2)
        self.position = slice(z_width + 2, z_width + 2 + ROWS)
        self.patch = slice(z_width + 2 + ROWS, width)
        self.z_width = z_width


def principal_components(patches, count):
    """(N, 49, P) patches -> their first principal components (N, 49, count), the first of unit variance."""
    flat = patches.flatten(0, 1)  # (N * 49, P)
    flat = flat - flat.mean(0)
    values, directions = torch.linalg.eigh(flat.T @ flat / len(flat))  # ascending
    values, directions = values.flip(0)[:count], directions.flip(1)[:, :count]  # (count,), (P, count)
    return (flat @ directions / values[0].sqrt()).view(*patches.shape[:2], count)


def read_vectors(generator, parts, vectors, images):
    """The first layer: the directions of the vector that tell most about images (reduced-rank regression)."""
    mean = vectors.mean(0)
    centred = vectors - mean  # (N, 512)
    covariance = with_ridge(centred.T @ centred / len(vectors))  # (512, 512)
    root = torch.linalg.cholesky(covariance)  # covariance = root @ root.T
    shared = centred.T @ (images - images.mean(0)) / len(vectors)  # (512, pixels)
    shared = torch.linalg.solve_triangular(root, shared, upper=False)  # (512, pixels)
    directions = torch.linalg.eigh(shared @ shared.T)[1].flip(1)  # (512, 512), most telling first
    reading = torch.linalg.solve_triangular(root.T, directions[:, : parts.z_width], upper=True)  # (512, z)
    layer = generator.expander.to_feature
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[parts.z] = reading.T
    layer.bias[parts.z] = -mean @ reading
    layer.bias[parts.constant] = torch.tensor([1.0, -1.0]) * parts.z_width**0.5
    generator.expander.to_rows.weight.fill_(1)  # every row begins as the image feature, masked or not
    generator.expander.to_rows.bias.zero_()


def expect_noise(layer, vectors, sigma):
    """Fold the Wiener filter into a first layer: it then sees the most likely clean vector behind a noisy one.

    Otherwise noise in directions in which vectors hardly vary drowns what these tell: faces fall apart at sigma .5.
    """
    vectors, weight = vectors.double(), layer.weight.double()  # (N, 512), (D, 512)
    mean = vectors.mean(0)
    covariance = (vectors - mean).T @ (vectors - mean) / len(vectors)  # (512, 512)
    noise = (sigma**2 + 1e-6) * torch.eye(len(covariance), dtype=torch.double)
    filtered = weight @ torch.linalg.solve(covariance + noise, covariance).T  # (D, 512)
    layer.bias += ((weight - filtered) @ mean).float()
    layer.weight.copy_(filtered)


def pass_through(generator, parts):
    """Everything between the first layer and the map hands its input on, and the decoder's positions are one-hot."""
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
    positions[0, 1:, parts.position] = torch.eye(ROWS) * POSITION


def draw_patches(generator, parts, vectors, codes):
    """Give every row hidden units of its own, block after block, that add what is missing of its patch.

    Returns the share of the patches' variance that is explained.
    """
    generator.decoder.positions[0, 1:, parts.patch] = codes.mean(0)
    mask = TokenMask.from_noise(torch.zeros(len(vectors), ROWS), 1.0, 1.0)
    encoded = generator.encoder(*generator.expander(vectors), mask)  # (N, 1, D): no row is kept
    tokens = generator.decoder.enter(encoded, mask)  # (N, 50, D)
    for block in generator.decoder.blocks:
        hidden = block.norm2(tokens)[:, 1:]  # (N, 49, D): what the MLP sees, as attention adds nothing yet
        missing = codes - tokens[:, 1:, parts.patch]  # (N, 49, patch)
        units = block.mlp.fc1.out_features // (2 * ROWS) * 2  # hidden units a row, in pairs
        for row in range(ROWS):
            these = slice(row * units, (row + 1) * units)
            write_row(block.mlp, these, parts, hidden, missing, row)
        tokens = block(tokens)
    equalise_map(generator, tokens)
    missing = codes - tokens[:, 1:, parts.patch]
    return 1 - float(missing.square().mean() / codes.var(0).mean())


def equalise_map(generator, tokens):
    """Give every channel of the map that varies at all the mean 0 and the variance 1."""
    rows = generator.to_map(generator.decoder.norm(tokens)[:, 1:]).flatten(0, 1)  # (N * 49, 256)
    mean, spread = rows.mean(0), rows.std(0).clamp(min=SMALLEST_SPREAD)
    generator.to_map.weight /= spread[:, None]
    generator.to_map.bias.copy_(-mean / spread)


def write_row(mlp, these, parts, hidden, missing, row):
    """Hidden units ``these`` that answer in one row: the best linear map of their number from z to what is missing."""
    z, wanted = hidden[:, row, parts.z], missing[:, row] - missing[:, row].mean(0)  # (N, z), (N, patch)
    centred = z - z.mean(0)
    fit = torch.linalg.solve(with_ridge(centred.T @ centred), centred.T @ wanted)  # (z, patch)
    drawn = centred @ fit  # (N, patch)
    directions = torch.linalg.eigh(drawn.T @ drawn)[1].flip(1)[:, : (these.stop - these.start) // 2]  # (patch, pairs)
    reading = fit @ directions  # (z, pairs)
    spread = (centred @ reading).std(0).clamp(min=1e-8)  # (pairs,)
    reading = torch.cat([reading, -reading], dim=1) / spread.repeat(2)  # (z, units): pairs, whose gates cancel
    column = parts.position.start + row
    on, off = hidden[:, row, column].mean(), hidden[:, row - 1, column].mean()
    gate = 2 * GATE / (on - off)
    mlp.fc1.weight[these, parts.z] = reading.T
    mlp.fc1.weight[these, column] = gate
    mlp.fc1.bias[these] = GATE - gate * on - z.mean(0) @ reading
    mlp.fc2.weight[parts.patch, these] = torch.cat([directions, -directions], dim=1) * spread.repeat(2) / 2


def with_ridge(matrix):
    return matrix + RIDGE * matrix.diagonal().mean() * torch.eye(len(matrix))
