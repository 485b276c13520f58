"""The entry point of every image: runs the one service that the image holds, without a shell in between.

The service stays process 1 of its container, so SIGTERM reaches the server itself. What else an image can do has a
module of its own: `python -m services.embedder.precompute`, `python -m services.core.probe`.
"""

import os
import runpy
import sys


def main() -> None:
    """Runs services.<MONDRIAN_SERVICE>, which is set in the image.

    Raises:
        SystemExit: MONDRIAN_SERVICE is not set, or whatever the service ends with.
    """
    service = os.environ.get("MONDRIAN_SERVICE")
    if not service:
        sys.exit("MONDRIAN_SERVICE is not set: build the image with --build-arg SERVICE=gateway (or another service).")
    runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
