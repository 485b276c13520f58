"""Importing a large library without another that it would bring along."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """Makes importing `module` fail within the block, as if it were not installed; if already imported, it stays."""
    hidden = module not in sys.modules
    if hidden:
        # An import of None raises ImportError, which those who import optional modules are prepared for.
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]
