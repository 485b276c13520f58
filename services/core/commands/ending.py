"""How a command that takes long ends: done, with a sentence, or interrupted.

Nothing heavy is imported here, so that Ctrl-C is answered while a command's libraries are still being loaded.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from services.core.commands.output import any_streams, going_on_unread

BEGINS_ANEW: Final = "Interrupted; the same command begins anew."


def exit_code(body: Callable[[], int], interrupted: str) -> int:
    """Returns the exit code of a command whose work is `body`: the body's own, 2 with the sentence of a
    ConfigurationError, 130 with the sentence `interrupted` after Ctrl-C or SIGTERM.
    """
    any_streams()
    try:
        with stoppable(), going_on_unread():
            from services.core.errors import ConfigurationError

            try:
                return body()
            except ConfigurationError as error:
                print(f"mondrian: {error}", file=sys.stderr)
                return 2
    except KeyboardInterrupt:
        print(f"mondrian: {interrupted}", file=sys.stderr)
        return 130


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Makes SIGTERM act like Ctrl-C; by default the first process of a container would ignore it.

    Only the first signal counts: another would interrupt the cleaning up.
    """
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        for each, handler in before.items():
            # A signal that the parent ignores (nohup, a shell's background job) stays ignored.
            if handler is not signal.SIG_IGN:
                signal.signal(each, stop)
        # The parent may have blocked them while Python itself was starting.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
