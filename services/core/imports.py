"""Imports of large libraries, less what they would bring along and is not wanted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """Lets an import of `module` fail meanwhile as if it were not installed; what is imported already stays."""
    hidden = module not in sys.modules
    if hidden:
        # An import of None raises ImportError, which those who import optional modules are prepared for.
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]
