"""The `mondrian` command."""

from __future__ import annotations

import sys


def app() -> None:
    """Runs the command. Ctrl-C ends it quietly even while it is still being loaded."""
    try:
        from services.cli.commands import app as commands
        from services.core.commands.output import any_streams

        any_streams()
        commands()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    app()
