"""The YAML of a deploy config: read strictly, and on which line each key stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from .faults import ABSENT, Fault, InvalidConfig, as_yaml

MAX_VALUES = 100_000  # of a config file, its aliases written out


class YamlText:
    """The text of a config, read.

    Args:
        text: of the file.
        source: what it is called in messages.

    Attributes:
        value: what it says; None: nothing. Of a key written twice the second counts.
        twice: one fault for each such key: which of the two was meant is not known.

    Raises:
        InvalidConfig: it is no YAML, or grows without bound when its aliases are written out.
    """

    def __init__(self, text: str, source: str) -> None:
        try:
            loader = _Loader(text)
            self.twice: list[Fault] = loader.twice
            self._root = loader.get_single_node()
            self.value: Any = None if self._root is None else loader.construct_document(self._root)
        except RecursionError:
            raise InvalidConfig(f"{source}: it is nested too deep") from None
        except yaml.MarkedYAMLError as e:
            where = f"line {e.problem_mark.line + 1}: " if e.problem_mark else ""
            raise InvalidConfig(f"{source}: {where}{e.problem or e.context}") from None
        except yaml.reader.ReaderError as e:
            raise InvalidConfig(
                f"{source}: it is not text: character {e.position + 1} is {chr(e.character)!r}"
            ) from None
        except yaml.YAMLError as e:
            raise InvalidConfig(f"{source}: {e}") from None

    def line_of(self, path: str) -> int | None:
        """The line, from 1 on, of the key at a path such as `tables[0].dim`.

        Where that is not there, of what it would stand in; None: that is the whole file.
        """
        node, line = self._root, None
        while path and node is not None:
            index = re.match(r"\[([0-9]+)\]\.?", path)
            if index and isinstance(node, yaml.SequenceNode) and int(index[1]) < len(node.value):
                node, path = node.value[int(index[1])], path[index.end() :]
                line = node.start_mark.line + 1
                continue
            found = _key_before(node, path)
            if found is None:
                break
            name, node, key = found
            line, path = key.start_mark.line + 1, path[len(name) :].removeprefix(".")
        return line


def _key_before(node: yaml.Node, path: str) -> tuple[str, yaml.Node, yaml.ScalarNode] | None:
    """The key of a mapping with which a path begins, what stands there, and where the key stands.

    Keys may have dots: the longest is it.
    """
    if not isinstance(node, yaml.MappingNode):
        return None
    named = [(_name_of(key), value, key) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
    begins = [one for one in named if one[0] and re.match(re.escape(one[0]) + r"(\.|\[|$)", path)]
    return max(begins, key=lambda one: len(one[0]), default=None)


def _name_of(key: yaml.ScalarNode) -> str:
    """A key as paths have it: `on` is true."""
    if key.tag == "tag:yaml.org,2002:bool":
        return as_yaml(_Loader.bool_values.get(key.value.lower()))
    return "null" if key.tag == "tag:yaml.org,2002:null" else key.value


class _Loader(yaml.SafeLoader):
    """YAML that notes keys written twice, and refuses aliases of aliases that grow without bound.

    1e-3 is a number, and a date is a text: no key takes one, and a month 13 would be an error without a line.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[Fault] = []

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MAX_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"aliases make more than {MAX_VALUES:,} values of it", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key in self._keys(node):
            line = key.start_mark.line + 1
            if key.value in first:
                problem = f"is written twice, in line {first[key.value]} too: leave one"
                self.twice.append(Fault(key.value, ABSENT, problem, line=line))
            first.setdefault(key.value, line)
        return super().construct_mapping(node, deep)

    @staticmethod
    def _keys(node: yaml.MappingNode) -> Iterator[yaml.ScalarNode]:
        return (key for key, _ in node.value if isinstance(key, yaml.ScalarNode))


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Values in a node with all its aliases written out; infinite if it contains itself."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # as long as it is being counted
        parts = [node.value] if isinstance(node, yaml.ScalarNode) else node.value
        flat = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        inner = [part for part in flat if isinstance(part, yaml.Node)]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in inner)
    return sizes[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
