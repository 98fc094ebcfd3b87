"""What AttrOP has done so far, shown beside a progress bar, and a hint when it asks for too much."""

import time

from models.attrop import Result

REDRAW_SECONDS = 0.5


class AttrOPProgress:
    """Counts iterations and results; an AttrOP calls it after each iteration.

    ``quality``: what its images should have, None when it does not matter; ``flag``: where the user sets it.
    When rows have ended, none was accepted and none came within ``tolerance`` of that quality, it prints a hint, once.
    ``bar``: the tqdm bar to write beside, if any.
    """

    def __init__(self, quality: float | None = None, flag: str = "--image_quality", tolerance: float = 1.0):
        self.quality, self.flag, self.tolerance = quality, flag, tolerance
        self.iterations = self.accepted = self.missed = 0
        self.best_quality = None
        self.bar, self.hinted, self.drawn = None, False, 0.0

    def __call__(self, results: list[Result]):
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
        if time.monotonic() - self.drawn >= REDRAW_SECONDS:
            self.drawn = time.monotonic()
            self.bar.set_postfix_str(str(self))

    def hint(self) -> str | None:
        """What to change when the wanted quality is out of reach, as far as it is known."""
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
