"""What went wrong, for the person at the command line."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, with which file, what to do."""


class AgreedStop(KeyboardInterrupt):
    """All processes of a run have stopped after a Ctrl-C, with everything saved. The message says how to continue."""
