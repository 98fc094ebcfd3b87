"""The exception for errors that users can correct."""


class UserError(Exception):
    """An error that the user can correct. Its message is one line: what is wrong, with which file, and what to do."""
