"""The progress of AttrOP, shown beside a progress bar, and a hint when the quality target is out of reach."""

import time

from tqdm.auto import tqdm

from models.attrop import Result

REDRAW_SECONDS = 0.5


class AttrOPProgress:
    """Counts iterations and results; AttrOP calls it after each iteration.

    ``quality``: the quality target, None without one; ``flag``: the command-line flag that sets it. If rows have ended
    but none was accepted or came within ``tolerance`` of the target, a hint is printed once. ``bar``: the tqdm progress
    bar, None without one.
    """

    def __init__(self, quality: float | None = None, flag: str = "--image_quality", tolerance: float = 1.0):
        self.quality, self.flag, self.tolerance = quality, flag, tolerance
        self.iterations = self.accepted = self.missed = 0
        self.best_quality: float | None = None
        self.bar: tqdm | None = None
        self.hinted, self.drawn = False, 0.0

    def __call__(self, results: list[Result]) -> None:
        """Count one iteration and the rows that ended in it."""
        self.iterations += 1
        self.accepted += sum(result.accepted for result in results)
        self.missed += sum(not result.accepted for result in results)
        for result in results:
            quality = result.values.get("quality")
            if quality is not None and (self.best_quality is None or quality > self.best_quality):
                self.best_quality = quality
        if self.bar is None:
            return
        if not self.hinted and (hint := self.hint()):
            self.hinted = True
            self.bar.write(hint)
        redraw = time.monotonic() - self.drawn >= REDRAW_SECONDS
        if redraw:
            self.drawn = time.monotonic()
        self.bar.set_postfix_str(str(self), refresh=redraw)  # the bar's last state shows all results

    def hint(self) -> str | None:
        """A line for the user when no image has come near the quality target so far, else None."""
        if self.quality is None or self.accepted or self.best_quality is None:
            return None
        if self.best_quality >= self.quality - self.tolerance:
            return None
        return (
            f"hint: no image came near quality {self.quality:g} so far, the best had {self.best_quality:.1f}; "
            f"lower {self.flag}."
        )

    def __str__(self):
        return f"AttrOP {self.iterations} iterations, {self.accepted} accepted, {self.missed} not"
