"""Calls one function of a script, with limits on memory, time and output; dies with its parent.

A program of its own, `python -I confine.py PARENT LIMITS SCRIPT FUNCTION ORDER`: setting limits
between the fork and the exec of a process with threads could hang. PARENT is the caller's process
id; LIMITS and ORDER are JSON: RLIMIT_… to a number, and keyword arguments. The function gets
standard input and output first; what it returns is, as JSON, the last line of standard error.
"""

import ctypes
import errno
import json
import os
import resource
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
REFUSED = 3
"""The exit code where the file is at fault; the reason is the last line of standard error."""
LACKS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EIO}
"""What is a lack of this machine's, whatever the file."""


def main() -> None:
    """Set the limits, call the function, report."""
    parent, limits, script, function, order = sys.argv[1:]
    if sys.platform == "linux":
        # Without its parent, nobody reads what it makes.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the kernel was asked
            sys.exit(1)
    for name, value in json.loads(limits).items():
        # At the hard limit of time comes SIGKILL, which would look like the machine's doing.
        resource.setrlimit(getattr(resource, name), (value, value + 1))
    try:
        sys.stdin.buffer.seek(0)
        call = runpy.run_path(script)[function]
        report = json.dumps(call(sys.stdin.buffer, sys.stdout.buffer, **json.loads(order)))
        sys.stdout.flush()
    except SystemExit as refusal:
        _end(str(refusal.code))
    except Exception as failure:
        # A broken file makes decoders raise anything.
        if getattr(failure, "errno", None) in LACKS or isinstance(failure, ImportError):
            raise
        if isinstance(failure, MemoryError):
            _end("it needs more memory than a decoder may have")
        reason = getattr(failure, "strerror", None) or failure
        _end(f"it cannot be decoded: {type(failure).__name__}: {reason}")
    else:
        print(report, file=sys.stderr)  # noqa: T201


def _end(reason: str) -> None:
    print(" ".join(reason.split())[:300], file=sys.stderr)  # noqa: T201
    sys.exit(REFUSED)


if __name__ == "__main__":
    main()
