"""Ranges of a numbered set, given on the command line as FIRST:END."""

from models.errors import UserError


def parse_slice(text: str | None, count: int, flag: str = "--start_end") -> range:
    """``A:B`` -> range(A, B) out of ``count``; None stands for all.

    Raises UserError, which names the ``flag``, when the text is malformed, reversed or past the end.
    """
    if text is None:
        return range(count)
    try:
        start, end = (
            int(part) if part.strip() else default for part, default in zip(text.split(":"), (0, count), strict=True)
        )
    except ValueError as error:
        raise UserError(f"{flag} {text}: write it as FIRST:END, for example 0:10.") from error
    if not 0 <= start < end:
        raise UserError(f"{flag} {text}: needs 0 <= FIRST < END.")
    if end > count:
        raise UserError(f"{flag} {text}: goes past the end, there are {count}.")
    return range(start, end)
