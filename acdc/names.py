"""Names of nodes and of what they read, the one place where they are taken apart.

Writers are `input`, `a3.h1`, `m4`; readers `a3.h1<q>`, `a3.kv0<k>`, `m4`, `logits`; at a span of
positions they are `a3.h1<q>@end`, `m4@s2` (`acdc/graph.py` says what they are). Knows no sizes:
whether a model has such a node is for whoever knows the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_N = r"0|[1-9][0-9]{0,3}"
_NAME = re.compile(
    rf"(?P<end>input|logits)|m(?P<mlp>{_N})"
    rf"|a(?P<layer>{_N})\.(?P<head>h|kv)(?P<index>{_N})(?:<(?P<part>[qkv])>)?"
)
_SPAN = re.compile(r"[^@<>]+")

Kind = Literal["input", "logits", "mlp", "head", "kv"]


@dataclass(frozen=True)
class Name:
    """What a name says."""

    kind: Kind  # kv: keys or values that a group of heads shares
    layer: int = 0
    index: int = 0  # head, or key/value group
    part: str = ""  # q, k or v of a reader of a head or group
    span: str = ""  # of positions, at which it reads or writes; "" = at all

    @property
    def node(self) -> str:
        """The name without its part."""
        stem = {"head": f"a{self.layer}.h{self.index}", "kv": f"a{self.layer}.kv{self.index}"}
        return {**stem, "mlp": f"m{self.layer}"}.get(self.kind, self.kind)

    def __str__(self) -> str:
        part = f"<{self.part}>" if self.part else ""
        return self.node + part + (f"@{self.span}" if self.span else "")

    @property
    def writes(self) -> bool:
        """Whether it is a writer's."""
        return self.kind in ("input", "mlp", "head") and not self.part and not self.span

    @property
    def reads(self) -> bool:
        """Whether it is a reader's."""
        return self.kind in ("mlp", "logits") or bool(self.part)


def named(name: str) -> Name:
    """What the name says; ValueError for one that no node and no reader has."""
    found = parse(name)
    if found is None:
        raise ValueError(f"{name!r} is no node and no reader.")
    return found


def parse(name: str) -> Name | None:
    """What the name says; None for one that no node and no reader has."""
    reader, at, span = name.partition("@")
    found = _NAME.fullmatch(reader)
    if found is None or (found["head"] == "kv" and found["part"] == "q"):  # queries are not shared
        return None
    if at and (reader == "logits" or not _SPAN.fullmatch(span)):
        return None
    if found["end"]:
        return Name("input" if reader == "input" else "logits", span=span)
    if found["mlp"]:
        return Name("mlp", int(found["mlp"]), span=span)
    kind: Kind = "head" if found["head"] == "h" else "kv"
    return Name(kind, int(found["layer"]), int(found["index"]), found["part"] or "", span)
