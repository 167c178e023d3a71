"""The nodes of YAML documents, composed by PyYAML in C, with limits for time and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import yaml
from yaml._yaml import CParser  # the name that CSafeLoader is made of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from istio_init.inject.plain_data import PlainValue, YamlNode

MAX_DEPTH: Final = 100
MAX_NODES: Final = 250_000
MAX_NODES_OF_FILE: Final = 1_000_000
MAX_DOCUMENTS: Final = 20_000

TOO_MANY_NODES = f"has more than {MAX_NODES:,} values"
TOO_MANY_NODES_IN_FILE = f"the file has more than {MAX_NODES_OF_FILE:,} values"
TOO_MANY_DOCUMENTS = f"the file has more than {MAX_DOCUMENTS:,} documents"
SPLIT = "split the file"


class RefusedError(Exception):
    """A node that may not be there: why, and PyYAML's mark of its place."""

    def __init__(self, why: str, mark: YamlNode = None, remedy: str = "") -> None:
        super().__init__(why)
        self.mark, self.remedy = mark, remedy


class _Parser(CParser):
    """PyYAML's composer in C; counts nodes and depth, and leaves tags alone.

    A scalar has its own tag, or none if it is plain, or ``!`` if it is a string.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = self.total = self.documents = 0

    def resolve(self, kind: object, value: object, implicit: PlainValue) -> str | None:
        """Return the tag of a node that names none."""
        del value
        return "!" if kind is yaml.ScalarNode and not implicit[0] else None

    def descend_resolver(self, parent: YamlNode, index: object) -> None:
        """Count a node before it is read."""
        del index
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise RefusedError(
                f"more than {MAX_DEPTH} levels deep", parent.start_mark if parent else None
            )
        if self.nodes > MAX_NODES or self.nodes + self.total > MAX_NODES_OF_FILE:
            why = TOO_MANY_NODES if self.nodes > MAX_NODES else TOO_MANY_NODES_IN_FILE
            raise RefusedError(why, parent.start_mark if parent else None, SPLIT)

    def ascend_resolver(self) -> None:
        """Count a node that has been read."""
        self.depth -= 1

    def next_node(self) -> YamlNode:
        """Return the root node of the next document, None after the last."""
        self.total += self.nodes
        self.nodes = 0
        if not self.check_node():
            return None
        self.documents += 1
        if self.documents > MAX_DOCUMENTS:
            raise RefusedError(TOO_MANY_DOCUMENTS, remedy=SPLIT)
        return self.get_node()


class _PatientParser(_Parser):
    """The same in Python, which is slower: an anchor may be defined again, as in Go."""

    def check_node(self) -> bool:
        """Whether there is another document."""
        if self.check_event(yaml.StreamStartEvent):
            self.get_event()
        return not self.check_event(yaml.StreamEndEvent)

    def get_node(self) -> YamlNode:
        """Return the root node of the next document."""
        self.anchors: dict[str, YamlNode] = {}
        self.get_event()
        node = self._compose(None)
        self.get_event()
        return node

    def _compose(self, parent: YamlNode) -> YamlNode:
        event: YamlNode = self.get_event()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise RefusedError("found undefined alias", event.start_mark)
            return self.anchors[event.anchor]
        self.descend_resolver(parent, None)
        start, end = event.start_mark, event.end_mark
        tag: PlainValue = event.tag
        node: YamlNode
        if isinstance(event, yaml.ScalarEvent):
            tag = tag or self.resolve(yaml.ScalarNode, event.value, event.implicit)
            node = yaml.ScalarNode(tag, event.value, start, end, event.style)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = yaml.SequenceNode(tag, [], start, end, event.flow_style)
        else:
            node = yaml.MappingNode(tag, [], start, end, event.flow_style)
        if event.anchor:
            self.anchors[event.anchor] = node
        if not isinstance(event, yaml.ScalarEvent):
            self._fill(node)
        self.ascend_resolver()
        return node

    def _fill(self, node: YamlNode) -> None:
        """Compose what stands in a list or map."""
        is_list = isinstance(node, yaml.SequenceNode)
        while not self.check_event(yaml.SequenceEndEvent if is_list else yaml.MappingEndEvent):
            one = self._compose(node)
            node.value.append(one if is_list else (one, self._compose(node)))
        end: YamlNode = self.get_event()
        node.end_mark = end.end_mark


def nodes(text: str) -> Iterator[YamlNode]:
    """Yield the root nodes of all documents.

    Raises ``RefusedError`` for more than the limits, and PyYAML's own errors.
    """
    parser, done = _Parser(text), 0
    while True:
        try:
            node = parser.next_node()
        except yaml.composer.ComposerError as problem:
            if "duplicate anchor" not in str(problem.context):
                raise
            parser = _PatientParser(text)
            for _ in range(done):
                parser.next_node()
            continue
        if node is None:
            return
        yield node
        done += 1
