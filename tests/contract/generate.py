"""Generates the stubs beside the protos, or checks that the committed ones are what the protos say.

python -m tests.contract.generate [--check] protos
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def sources(root: Path) -> list[str]:
    """Returns the protos below `root`, as paths relative to it, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.proto"))


def generate(root: Path, out: Path) -> None:
    """Writes the stubs of every proto below `root` into `out`.

    Raises:
        SystemExit: a proto is wrong; the compiler has said where.
    """
    # The proto root is the import root of Python too, so that no import needs rewriting.
    arguments = ["protoc", f"-I{root}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    for plugin in ("python_out=", "grpc_python_out=", "mypy_out=quiet:", "mypy_grpc_out=quiet:"):
        arguments.append(f"--{plugin}{out}")
    # protoc looks for its plugins on the path; those of this environment come first, activated or not.
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        code = protoc.main([*arguments, *sources(root)])
    finally:
        os.environ["PATH"] = before
    if code != 0:
        raise SystemExit("The protos do not compile.")


def stubs(root: Path) -> dict[str, bytes]:
    """Returns the contents of the stubs below `root`, by path relative to it."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for pattern in PATTERNS
        for path in sorted(root.rglob(pattern))
    }


def differences(root: Path) -> list[str]:
    """Returns the stubs below `root` that are missing, left over, or not what the protos say; sorted."""
    with tempfile.TemporaryDirectory() as fresh:
        generate(root, Path(fresh))
        wanted, found = stubs(Path(fresh)), stubs(root)
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main() -> int:
    """Returns the exit code: 0, or 1 where --check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a stub differs")
    arguments = parser.parse_args()
    if not arguments.check:
        generate(arguments.root, arguments.root)
        return 0
    wrong = differences(arguments.root)
    if wrong:
        print(f"Stubs that are not what the protos say (make protos mends it): {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
