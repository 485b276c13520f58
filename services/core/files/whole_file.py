"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from services.core.errors import ConfigurationError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all, whatever interrupts it; into a device or a pipe, as much as it takes.

    Raises:
        ConfigurationError: it cannot be written.
    """
    unfinished = None
    try:
        if path.exists() and not path.is_file():
            # /dev/null is not to become a file.
            path.write_bytes(content)
            return
        # What a link leads to is written, and the link stays.
        place = Path(os.path.realpath(path))
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as file:
            unfinished = Path(file.name)
            file.write(content)
        # A temporary file is private; this gets the permissions that any new file has.
        unfinished.chmod(0o666 & ~_umask())
        os.replace(unfinished, place)
    except BaseException as error:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigurationError(f"{path} cannot be written ({error.strerror}); name another file.") from error
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
