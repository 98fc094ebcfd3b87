"""The masks of a training of the generator, and how messages name the records of a batch."""

import torch

from models.errors import UserError
from models.masking import ROWS, MaskRates, TokenMask
from models.transfer import upload


def mask_rates_of(minimum: float, maximum: float, mu: float, std: float) -> MaskRates:
    """The distribution of the mask rates. Raises UserError when its parameters are impossible."""
    try:
        return MaskRates(minimum, maximum, mu, std)
    except ValueError as error:
        raise UserError(f"--mask_ratio_*: {error}.") from error


def draw_mask(mask_rates: MaskRates, count: int, device: torch.device) -> TokenMask:
    """The TokenMask of ``count`` images with rates of their own, drawn on the CPU: all devices get the same masks."""
    rates = [mask_rates.rate(uniform) for uniform in torch.rand(count, dtype=torch.float64).tolist()]
    mask = TokenMask.from_noise(torch.rand(count, ROWS), mask_rates.minimum, torch.tensor(rates))
    return TokenMask(upload(mask.kept, device), upload(mask.masked, device))


def records_of(positions: torch.Tensor) -> str:
    """The end of a message about a batch: the positions of its first records."""
    return f"records of the batch: {', '.join(map(str, positions[:8].tolist()))} ..."
