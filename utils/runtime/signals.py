"""The signals that ask a run to stop, and the exception that ends it once all of its processes have agreed."""

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class AgreedStop(KeyboardInterrupt):
    """All processes of a run have stopped after a Ctrl-C, with everything saved. The message says how to continue."""
