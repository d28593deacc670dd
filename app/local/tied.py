"""Runs a command that ends when its parent does, however the parent ends: the kernel sees to it.

A script of its own, run as `python -I -S tied.py PARENT_PID COMMAND ARG…`: doing this between fork
and exec of a process with threads could hang. Only Linux can; elsewhere it just runs the command.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for SIGTERM at the parent's death, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
