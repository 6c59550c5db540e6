"""The program: the command `accord`, which `python -m accord` is too."""

import os
import signal
import sys


def program() -> None:
    """Run the command that the arguments give, and end the process with its exit status.

    Ctrl-C ends it without a traceback also before the command begins and once it has ended.
    """
    try:
        from accord.cli.main import main

        status = main()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    sys.exit(status)


if __name__ == "__main__":
    program()
