"""What ends a command with exit code 1."""

from __future__ import annotations


class CommandFailed(Exception):
    """Something that was asked for failed; the message is one sentence for whoever typed the command."""
