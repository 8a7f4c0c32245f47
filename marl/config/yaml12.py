"""YAML for configurations: plain values only, every fault of a file reported in plain words with its line.

The rules are YAML 1.2's core schema: `1e-2` is a number (PyYAML reads it as text), `yes` and `012` are what they look
like (PyYAML reads a boolean and the octal 10). Duplicate keys, tags such as `!!python/object`, anchors and aliases are
refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_LIMIT = 1_000_000  # characters; a configuration has a few thousand
_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": re.compile(r"(?:~|null|Null|NULL|)$"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"[-+]?[0-9][0-9_]*$"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.check_event(AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "an alias (*name); write the value out", mark)
        return super().compose_node(parent, index)


for _kind, _pattern in _PLAIN.items():
    _Loader.add_implicit_resolver(_TAG + _kind, _pattern, None)


@dataclass
class Document:
    """What a YAML text holds."""

    value: Any = None  # None, bool, int, float, str, lists and dicts of those
    lines: dict[str, int] = field(default_factory=dict)  # "maddpg.gamma" -> line of its key
    problems: list[str] = field(default_factory=list)  # "line 3: ..." each


def read(text: str) -> Document:
    """Parse one document; never raises, whatever the text."""
    document = Document()
    if len(text) > _LIMIT:
        document.problems.append(f"has {len(text)} characters, which is no configuration")
        return document
    try:
        node = yaml.compose(text, Loader=_Loader)
        document.value = None if node is None else _value(node, "", document)
    except yaml.YAMLError as error:
        document.problems.append(_plain_words(error))
    except RecursionError:
        document.problems.append("is nested too deeply")
    return document


def scalar(word: str) -> Any:
    """A word of the command line as the YAML value that it would be: bool, int, float, None or the word itself."""
    for kind, pattern in _PLAIN.items():
        if pattern.match(word):
            return _atom(kind, word)
    return word


def _atom(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    try:
        if kind == "int":
            return int(text.replace("_", ""))
        return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
    except ValueError:  # more digits than Python converts, or an explicit tag over other text
        return text


def _value(node: Node, path: str, document: Document) -> Any:
    kind = node.tag.removeprefix(_TAG)
    line = node.start_mark.line + 1
    if isinstance(node, ScalarNode) and kind in ("str", *_PLAIN):
        return node.value if kind == "str" else _atom(kind, node.value)
    if isinstance(node, SequenceNode) and kind == "seq":
        return [_value(entry, f"{path}[{index}]", document) for index, entry in enumerate(node.value)]
    if isinstance(node, MappingNode) and kind == "map":
        return _mapping(node, path, document)
    tag = node.tag.replace(_TAG, "!!")
    document.problems.append(f"line {line}: the tag {tag[:60]} is refused; a configuration holds plain values only")
    return None


def _mapping(node: MappingNode, path: str, document: Document) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode) or key_node.tag != _TAG + "str":
            shown = key_node.value if isinstance(key_node, ScalarNode) else "a list or mapping"
            document.problems.append(f"line {line}: the key {str(shown)[:60]} is no name")
            continue
        key = key_node.value
        place = f"{path}.{key}" if path else key
        if key in results:
            document.problems.append(f"line {line}: {place} is given twice, first in line {document.lines[place]}")
            continue
        document.lines[place] = line
        results[key] = _value(value_node, place, document)
    return results


def _plain_words(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark is not None else ""
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid YAML")
    if "\\t" in problem:
        return f"{where}a tab; YAML wants spaces for indentation"
    if problem.startswith("an alias"):
        return f"{where}{problem}"
    return f"{where}not valid YAML: {problem[:120]}"
