"""Becomes a command that may use only so much of the machine, and dies with its parent.

A script of its own, run as `python -I -S confine.py PARENT_PID LIMITS COMMAND ARG…`: doing this
between fork and exec of a process with threads could hang. LIMITS is JSON: RLIMIT_… to a number.
The network and the parent's death are Linux's to see to; elsewhere only the limits hold.
"""

import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
CPU_GRACE_SECONDS = 5


def main() -> None:
    """Set the limits, then become the command."""
    parent, limits, command = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        # Where the kernel lets it, in a network of its own with nothing in it: the command has no
        # use for one. Where it does not, what it is told to open is all that it opens.
        if libc.unshare(CLONE_NEWNET) != 0:
            libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            sys.exit(1)
    for name, value in limits.items():
        grace = CPU_GRACE_SECONDS if name == "RLIMIT_CPU" else 0
        resource.setrlimit(getattr(resource, name), (value, value + grace))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
