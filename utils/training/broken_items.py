"""Broken records or photos in the training data: reported and skipped, up to a limit."""

from collections.abc import Sequence

from models.errors import UserError


class BrokenItems:
    """Counts the broken items of a training and ends it when there are too many.

    ``source``: the path of the data. ``kind``: what an item is called, in the plural. ``limit``: --max_bad_records.
    """

    def __init__(self, source: str, kind: str, limit: int):
        self.source, self.kind, self.limit, self.count = source, kind, limit, 0

    def report(self, errors: Sequence[str]) -> None:
        """Print a warning for each broken item of a batch. ``errors``: one text per item, empty if it is not broken.

        Raises UserError when there are more than the limit, or when a whole batch is broken.
        """
        broken = [error for error in errors if error]
        for error in broken:
            print(f"warning: skipped {error}")
        self.count += len(broken)
        if self.count > self.limit:
            raise UserError(f"{self.source}: more than --max_bad_records {self.limit} broken {self.kind}.")
        if len(broken) == len(errors):
            raise UserError(f"{self.source}: a whole batch of broken {self.kind}, from {broken[0]} on.")
