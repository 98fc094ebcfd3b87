"""What went wrong, for the person at the command line."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, with which file, what to do."""
