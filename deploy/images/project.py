"""What an image takes from pyproject.toml, so that nothing is listed twice.

`project.py requirements PYPROJECT SERVICE [EXTRA ...]` prints what pip has to install for one service: the dependencies
of the project, of the extra that is named like the service, and of further extras: what `mondrian[SERVICE]` is given.
`project.py metadata PYPROJECT FOLDER` writes the name and version that importlib.metadata reads: an image holds the
code of one service, as files, and no installed distribution.
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, service: str, *further: str) -> list[str]:
    """Returns the requirements of `service` and of `further` extras, sorted.

    Raises:
        SystemExit: pyproject.toml has no extra of that name; the sentence lists the ones it has.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    found: set[str] = set(project["dependencies"])
    waiting = [service, *further]
    while waiting:
        name = waiting.pop()
        if name not in extras:
            sys.exit(f"There is no service {name!r}: SERVICE is one of {', '.join(sorted(extras))}.")
        for line in extras[name]:
            # An extra may consist of others.
            if others := re.fullmatch(rf"{project['name']}\[(.+)\]", line):
                waiting += others[1].split(",")
            else:
                found.add(line)
    return sorted(found)


def write_metadata(pyproject: Path, folder: Path) -> Path:
    """Returns the METADATA file, written below `folder`, which has to be on the interpreter's path."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    return metadata


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["requirements", pyproject, service, *further]:
            print("\n".join(requirements(Path(pyproject), service, *further)))
        case ["metadata", pyproject, folder]:
            write_metadata(Path(pyproject), Path(folder))
        case _:
            sys.exit(__doc__)
