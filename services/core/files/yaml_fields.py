"""Fields of YAML files that people write: text, lists of words, and one sentence about what does not fit.

YAML is read by the safe loader, so a file holds values and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final

import yaml

from services.core.errors import ConfigurationError
from services.core.identifiers import printable

MAX_YAML_BYTES: Final = 16 * 1024 * 1024
MAX_TEXT: Final = 4_000


# Types that no field has, and whose values could be a thousand times the size of the file.
_NO_FIELDS: Final = ("binary", "omap", "pairs", "set")
_MAX_DIGITS: Final = 40
_MAX_MERGED: Final = 1_000


class _Twice(yaml.YAMLError):
    """A mapping has a key twice; the loader would silently keep the last."""

    def __init__(self, key: yaml.ScalarNode) -> None:
        super().__init__()
        self.key: str = key.value
        self.line: int = key.start_mark.line + 1


class _Loader(yaml.SafeLoader):
    """The safe loader, which also tells the line of a malformed date or number (2020-13-45).

    A small file takes little memory and time, whatever references it holds.
    """

    yaml_constructors: ClassVar = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if not str(tag).endswith(tuple(f":{name}" for name in _NO_FIELDS))
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Returns a mapping as it is written."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Twice(key)
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Returns a node's value."""
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(node.value) > _MAX_DIGITS:
            raise yaml.constructor.ConstructorError(problem="no field holds it", problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # whatever the value makes Python run into
            raise yaml.constructor.ConstructorError(problem=str(error), problem_mark=node.start_mark) from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what a mapping refers to by << into it."""
        written = len(node.value)
        super().flatten_mapping(node)
        if len(node.value) > written + _MAX_MERGED:
            raise yaml.constructor.ConstructorError(problem="refers to too much", problem_mark=node.start_mark)


def mapping(path: Path) -> dict[str, object]:
    """Returns a file's mapping with text keys; empty where there is no file or nothing in it.

    Raises:
        ConfigurationError: it cannot be read, is too large, or is no mapping in YAML.
    """
    if not path.exists():
        return {}
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file; write its fields into a text file of that name.")
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigurationError(f"{path} has more than 16 MiB; keep only the photographs' fields in it.")
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except _Twice as error:
        raise ConfigurationError(
            f"{path} has {plain(error.key)!r} a second time in line {error.line}; keep one."
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(f"{path} is not YAML{line}; mend that line (indentation, quotes, colons).") from error
    except RecursionError as error:
        raise ConfigurationError(f"{path} is nested too deeply; write the fields as in the sample advisors.") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); mend its permissions.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must hold 'name: value' lines, not a {type(content).__name__}.")
    return {plain(key): value for key, value in content.items()}


def text(where: Path, entry: dict[str, object], key: str) -> str:
    """Returns a field as one line of at most 4,000 characters; empty where it is not set. `where` is its file.

    Raises:
        ConfigurationError: it is a list or a mapping, or too long.
    """
    value = entry.get(key)
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        raise ConfigurationError(f"{where}: '{key}' must be text; put it in quotes.")
    line = plain(value)
    if len(line) > MAX_TEXT:
        raise ConfigurationError(f"{where}: '{key}' has {len(line):,} characters; shorten it to {MAX_TEXT:,}.")
    return line


def texts(where: Path, entry: dict[str, object], key: str) -> tuple[str, ...]:
    """Returns a field as words, from a list or from one text with commas; empty where it is not set.

    Raises:
        ConfigurationError: it is something else.
    """
    value = entry.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(words for part in value.split(",") if (words := plain(part)))
    if not isinstance(value, list) or any(isinstance(part, (dict, list)) for part in value):
        raise ConfigurationError(f"{where}: '{key}' must be a list of words, like [{key}-one, {key}-two].")
    return tuple(plain(part)[:200] for part in value if part is not None)


def plain(value: object) -> str:
    """Returns a value as one line of text; two escaped halves of a character, as JSON writes them, become it."""
    line = " ".join(str(value).split()).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(each for each in line if printable(each))


def unknown(where: str, entry: dict[str, object], known: frozenset[str]) -> list[str]:
    """Returns a sentence for every field that is not among the known ones."""
    return [
        f"{where}: '{key}' is passed over, since only these are used: {listed(known)}."
        for key in entry
        if key not in known
    ]


def listed(words: frozenset[str]) -> str:
    """Returns words in order, between commas."""
    return ", ".join(sorted(words))
