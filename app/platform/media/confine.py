"""Calls a function of a script with limits on memory, time and output. Dies with its parent.

It is a program, `python -I confine.py PARENT LIMITS SCRIPT FUNCTION ORDER`, because setting limits
between fork and exec in a process with threads could hang. PARENT is the caller's process id.
LIMITS and ORDER are JSON: numbers by RLIMIT_… name, and keyword arguments. The function gets
standard input and output first. Its result is written as JSON, in the last line of standard error.
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
"""The exit code where the file is at fault. The last line of standard error has the reason."""
LACKS = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EIO}
"""Errors that mean that the machine lacks something, whatever the file."""


def main() -> None:
    """Set the limits, call the function, report."""
    parent, limits, script, function, order = sys.argv[1:]
    if sys.platform == "linux":
        # Without its parent, nobody reads the result.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the kernel was asked
            sys.exit(1)
    for name, value in json.loads(limits).items():
        # The hard limit of time sends SIGKILL, which would look like the machine's fault.
        resource.setrlimit(getattr(resource, name), (value, value + 1))
    try:
        sys.stdin.buffer.seek(0)
        call = runpy.run_path(script)[function]
        report = json.dumps(call(sys.stdin.buffer, sys.stdout.buffer, **json.loads(order)))
        sys.stdout.flush()
    except SystemExit as refusal:
        _end(str(refusal.code))
    except Exception as failure:
        # Decoders may raise anything for a broken file.
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
