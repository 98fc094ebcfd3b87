"""Scripts called with a command line, in this process."""

import pytest


def run(main, *words):
    """Call a script's ``main`` with words of any type."""
    main([str(word) for word in words])


def refused(main, words, capsys):
    """Run a script that must refuse its input without a traceback, and return the last line that it prints."""
    with pytest.raises(SystemExit) as error:
        run(main, *words)
    assert error.value.code not in (0, None)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err.strip().splitlines()[-1]
