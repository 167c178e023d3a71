"""Manifests as people write them: values at random, in layouts at random."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from istio_init.inject import scalars

if TYPE_CHECKING:
    from random import Random

    from istio_init.inject.plain_data import PlainValue


_WORDS = (
    *("web", "nginx:1.27", "on", "y", "NO", "0123", "1e3", "1_000", "0x1F", "~", "=", ".inf"),
    *("1:30", "2024-01-01", "", " blank", "a: b", "a #b", "#a", "-", "- x", "?", "*", "&a", "!t"),
    *("%d", "@x", "`x", "{}", "[]", "a,b", "it's", 'say "x"', "ä", "☃", "tab\there", "null", "-p"),
    *("two\nlines", "three\n\nlines\n", "ends\n\n", "  leads\nmore", "\n", "a\r\nb", "<<", "/x/y"),
)
texts = st.sampled_from(_WORDS)
values_of_scalars: st.SearchStrategy[PlainValue] = st.one_of(
    texts,
    st.integers(-5, 70000),
    st.booleans(),
    st.none(),
    st.sampled_from([0.5, 1e21, -2.25]),
)
_names = st.sampled_from(["name", "image", "args", "env", "ports", "labels", "on", "1", "a b", "x"])
values: st.SearchStrategy[PlainValue] = st.recursive(
    values_of_scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(_names, inner, max_size=4),
        st.lists(
            st.fixed_dictionaries({"name": st.sampled_from("abcdef")}, optional={"x": inner}),
            max_size=4,
            unique_by=lambda item: str(item["name"]),
        ),
    ),
    max_leaves=14,
)
documents = st.dictionaries(_names, values, min_size=1, max_size=5)


@dataclass
class Layout:
    """Writes one document, with dice."""

    random: Random
    indent: int = 2
    sequence_indent: int = 0
    comments: bool = True
    flow_share: float = 0.2
    anchors: dict[str, str] = field(default_factory=dict)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def write(self, value: PlainValue) -> str:
        return "\n".join(self.lines(value, 0)) + "\n"

    def noise(self, column: int) -> list[str]:
        """Return comments and blank lines between two entries."""
        lines = []
        if self.comments and self.chance(0.2):
            lines.append(self.random.choice(["", " " * column + "# - a: 'b", "  # far", "# left"]))
        return lines

    def lines(self, value: PlainValue, column: int) -> list[str]:
        """Return a map or list that is not empty, in block style."""
        lines: list[str] = []
        pad = " " * column
        if isinstance(value, dict):
            for key, one in value.items():
                lines += self.noise(column)
                head = f"{pad}{self.key(key)}:"
                lines += self.placed(head, one, column, self.step(one))
            return lines
        for one in value:
            lines += self.noise(column)
            if isinstance(one, dict | list) and one and not self.chance(self.flow_share):
                width = self.random.choice([2, 2, 2, 4])
                inner = self.lines(one, column + width)
                first = next(
                    index for index, line in enumerate(inner) if line.strip()[:1] not in ("", "#")
                )
                if first:
                    lines += [f"{pad}-", *inner]
                else:
                    inner[0] = f"{pad}-{inner[0][column + 1 :]}"
                    lines += inner
                continue
            lines += self.placed(f"{pad}-", one, column, 2)
        return lines

    def step(self, value: PlainValue) -> int:
        return self.sequence_indent if isinstance(value, list) else self.indent

    def placed(self, head: str, value: PlainValue, column: int, step: int) -> list[str]:
        """Return a value behind its key or dash."""
        tail = self.random.choice(["", "", "", "  # note", " #x: y"]) if self.comments else ""
        shown = json.dumps(value, sort_keys=True)
        if shown in self.anchors and self.chance(0.5):
            return [f"{head} *{self.anchors[shown]}{tail}"]
        anchor = ""
        if shown not in self.anchors and self.chance(0.1):
            anchor = f" &a{len(self.anchors)}"
            self.anchors[shown] = anchor[2:]
        if isinstance(value, dict | list) and value and not self.chance(self.flow_share):
            return [f"{head}{anchor}{tail}", *self.lines(value, column + step)]
        if isinstance(value, dict | list):
            return [f"{head}{anchor} {self.flow(value, column)}{tail}"]
        if isinstance(value, str) and scalars.is_literal(value) and self.chance(0.7):
            body = value.rstrip("\n")
            chomp = ("-", "", "+")[min(len(value) - len(body), 2)]
            hint = str(self.indent) if body[:1] in (" ", "\n") else ""
            pad = " " * (column + self.indent)
            lines = [pad + line if line else "" for line in body.split("\n")]
            return [f"{head}{anchor} |{hint}{chomp}", *lines, *[""] * (len(value) - len(body) - 1)]
        if value is None and self.chance(0.5):
            return [f"{head}{anchor}{tail}"]
        return [f"{head}{anchor} {self.scalar(value)}{tail}"]

    def key(self, key: str) -> str:
        return self.scalar(key)

    def scalar(self, value: PlainValue, *, in_flow: bool = False) -> str:
        if isinstance(value, str):
            forms = [scalars.quoted(value)]
            if scalars.is_single_line(value):
                forms.append("'" + value.replace("'", "''") + "'")
            if scalars.is_plain(value) and not (in_flow and set(value) & set(",[]{}:?")):
                forms += [value] * 4
            return self.random.choice(forms)
        if value is None:
            return self.random.choice(["null", "~", "Null"])
        if isinstance(value, bool):
            return self.random.choice(["yes", "true", "On"] if value else ["no", "False", "off"])
        return json.dumps(value)

    def flow(self, value: PlainValue, column: int) -> str:
        if isinstance(value, dict):
            parts = [
                f"{self.scalar(k, in_flow=True)}: {self.flow(v, column)}" for k, v in value.items()
            ]
            pair = "{}"
        elif isinstance(value, list):
            parts, pair = [self.flow(one, column) for one in value], "[]"
        else:
            return self.scalar(value, in_flow=True)
        glue = self.random.choice(
            [", ", ",\n" + " " * (column + 4), " , ", ",  # c\n" + " " * (column + 5)]
        )
        end = self.random.choice(["", " ", ", ", "\n" + " " * (column + 3)]) if parts else ""
        return pair[0] + self.random.choice(["", " "]) + glue.join(parts) + end + pair[1]


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    indent = draw(st.integers(1, 6))
    return Layout(
        draw(st.randoms(use_true_random=False)),
        indent,
        draw(st.integers(0, indent)),
        comments=draw(st.booleans()),
        flow_share=draw(st.sampled_from([0.0, 0.2, 0.8])),
    )


@st.composite
def changed(draw: st.DrawFn, value: PlainValue, *, only_added: bool = False) -> PlainValue:
    """Return a value of which a little was added, changed or removed."""
    if isinstance(value, dict):
        new = {}
        for key, one in value.items():
            if not only_added and draw(st.integers(0, 9)) == 0:
                continue
            new[key] = draw(changed(one, only_added=only_added))
        if draw(st.integers(0, 3)) == 0:
            extra = draw(st.dictionaries(st.sampled_from(["new", "on", "add"]), values, max_size=2))
            new |= {key: one for key, one in extra.items() if key not in value}
        return new
    if isinstance(value, list):
        new_items = []
        for one in value:
            if draw(st.integers(0, 9)) == 0:
                new_items.append(draw(values))
            if not only_added and draw(st.integers(0, 9)) == 0:
                continue
            new_items.append(draw(changed(one, only_added=only_added)))
        if draw(st.integers(0, 4)) == 0:
            new_items.append(draw(values))
        return new_items
    if not only_added and draw(st.integers(0, 7)) == 0:
        return draw(values)
    return value
