"""The `mondrian` command."""

from __future__ import annotations

import sys


def app() -> None:
    """Runs the command. Loading it takes a moment, in which Ctrl-C is to be as quiet as it is later."""
    try:
        from services.cli.commands import app as commands
        from services.core.output import any_streams

        any_streams()
        commands()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    app()
