"""Runs a program that ends with the process that started it: `python -m services.cli.leash PARENT MODULE ...`.

The kernel sends it SIGTERM when its `mondrian` is gone for any reason (a hangup and kill -9 included), so that no
service keeps a port and no precompute the writer's lock. This is set up in the new process, because running Python
between fork and exec is not safe in a process with gRPC threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final, NoReturn

PR_SET_PDEATHSIG: Final = 1


def follow(parent: int, module: str, *arguments: str) -> NoReturn:
    """Replaces this process by `python -m MODULE ...`, tied to the life of `parent` where the kernel can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # It may have gone before the line above.
        if os.getppid() != parent:
            sys.exit(0)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


if __name__ == "__main__":
    follow(int(sys.argv[1]), *sys.argv[2:])
