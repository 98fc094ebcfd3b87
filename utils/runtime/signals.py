"""The signals that ask a run to stop, and the answer when all of its processes have."""

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class AgreedStop(KeyboardInterrupt):
    """All processes of a run have stopped after a Ctrl-C, with everything saved. The message says how to continue."""
