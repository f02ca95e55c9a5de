"""YAML of recipes, sweeps and templates, read with limits: no file, whatever it contains, takes more than a second.

Aliases are allowed as far as the values that they stand for stay within the limits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from yaml.nodes import Node

MAX_BYTES = 2_000_000
MAX_EVENTS = 100_000  # of the parser: about two for each value
MAX_VALUES = 100_000  # with every alias replaced by what it stands for
MAX_DEPTH = 50  # of mappings and lists within each other


class YamlError(ValueError):
    """Text that is not YAML, or not YAML that is read here; the message is one line and names the line of the text."""


def read_bytes(path: Path) -> bytes:
    """The bytes of a YAML file.

    Raises:
        OSError: the file cannot be read.
        YamlError: it is larger than MAX_BYTES.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"it is larger than {MAX_BYTES:,} bytes; split it, or make it smaller")
    return data


def compose_file(path: Path) -> Node | None:
    """The nodes of a YAML file in UTF-8; see `compose`.

    Raises:
        YamlError: it cannot be read, is not UTF-8, or `compose` raises it.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise YamlError(str(error)) from error
    except UnicodeDecodeError as error:
        raise YamlError(f"byte 0x{error.object[error.start]:02x} at {error.start} is not UTF-8") from error
    return compose(text)


def compose(text: str) -> Node | None:
    """The nodes of a YAML document, without any type but text, list and mapping; None if it is empty.

    Raises:
        YamlError: it is not valid, has several documents or keys that are no text, exceeds a limit, or has an alias
            within the value that it stands for.
    """
    import yaml

    if len(text) > MAX_BYTES:
        raise YamlError(f"it has more than {MAX_BYTES:,} characters; split it, or make it smaller")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML has it
    try:
        _check_events(yaml.parse(text, Loader=loader))
        root = yaml.compose(text, Loader=loader)
    except YamlError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: characters that UTF-8 does not have
        raise YamlError(" ".join(str(error).split())) from error
    if root is not None:
        _check_size(root, {})
    return root


def _check_events(events: Any) -> None:
    """Raises YamlError where a text has more events than a second allows, or too deep ones; nothing is kept."""
    from yaml import events as kinds

    depth = 0
    for number, event in enumerate(events):
        if isinstance(event, kinds.CollectionStartEvent):
            depth += 1
        elif isinstance(event, kinds.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise YamlError(_too_deep(event))
        if number > MAX_EVENTS:
            raise YamlError(f"it has too many values, at {_line(event)}; split it into several files")


def _check_size(node: Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """The number of values of a node, and its depth, as if every alias were written out.

    Args:
        node: of a document that `_check_events` has passed.
        known: both, by the id of nodes seen before; None: of a node that is not finished, so that it contains itself.
    """
    from yaml.nodes import MappingNode, ScalarNode

    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise YamlError(f"the value at {_line(node)} contains itself, by an alias; write it out")
        return found
    known[id(node)] = None
    values, depth = 1, 0
    children = () if isinstance(node, ScalarNode) else node.value
    if isinstance(node, MappingNode):
        for key, _ in children:
            if not isinstance(key, ScalarNode):
                raise YamlError(f"the key at {_line(key)} is a list or a mapping; expected text")
        children = [value for _, value in children]
    for child in children:
        more, below = _check_size(child, known)
        values, depth = values + more, max(depth, below + 1)
        if values > MAX_VALUES:
            raise YamlError(f"its aliases stand for more than {MAX_VALUES:,} values; write out those that are needed")
        if depth > MAX_DEPTH:
            raise YamlError(_too_deep(node))
    known[id(node)] = (values, depth)
    return values, depth


def plain(node: Node, problems: list[str], where: str = "") -> Any:
    """Mappings, lists and scalars as text, as they are written; null is None.

    Args:
        node: from `compose`.
        problems: a key that is given twice in a mapping is added.
        where: begins such a problem.
    """
    from yaml.nodes import MappingNode, ScalarNode

    if isinstance(node, ScalarNode):
        return None if node.tag.endswith(":null") else node.value
    if not isinstance(node, MappingNode):
        return [plain(item, problems, where) for item in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        if key.value in found:
            problems.append(f"{where}{key.value}: given twice ({_line(key)}); remove one")
        found[key.value] = plain(value, problems, f"{where}{key.value}: ")
    return found


def load(text: str) -> Any:
    """The value of a YAML document with YAML's own types: numbers, true, false, null, dates; None if it is empty.

    Raises:
        YamlError: as of `compose`; or a key is given twice, or a value is not of the type that its tag names.
    """
    import yaml

    root, problems = compose(text), []
    if root is None:
        return None
    plain(root, problems)
    if problems:
        raise YamlError("; ".join(problems))
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        # What PyYAML raises for `!!int x` or 2001-99-99 depends on the type.
        raise YamlError(f"a value is not of its type: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def load_file(path: Path) -> Any:
    """The value of a YAML file in UTF-8; see `load`. Raises YamlError, with the path."""
    try:
        return load(read_bytes(path).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise YamlError(f"{path} cannot be read as YAML in UTF-8: {error}") from error


def load_mapping(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, {} if it is empty. Raises YamlError, with the path, for anything else."""
    content = load_file(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise YamlError(f"{path}: got a {type(content).__name__}, expected one `key: value` a line")
    return content


def _line(node: Any) -> str:
    return f"line {node.start_mark.line + 1}"


def _too_deep(node: Any) -> str:
    return f"lists and mappings are more than {MAX_DEPTH} deep, at {_line(node)}; expected a few levels"
