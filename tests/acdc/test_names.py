"""Names of nodes and readers: what a graph writes is read back, and nothing else is a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc.graph import Graph
from acdc.names import Name, parse

GRAPHS = [Graph(11, 4, 2, 8, kv=kv) for kv in ("per_query_head", "per_group")]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.kv)
def test_every_name_of_a_graph_says_where_it_sits(graph):
    for i, writer in enumerate(graph.writers):
        name = parse(writer)
        assert str(name) == name.node == writer and name.writes
        place = {"input": 0, "head": graph.head(name.layer, name.index),
                 "mlp": graph.mlp(name.layer)}  # fmt: skip
        assert place[name.kind] == i
    for i, reader in enumerate(graph.readers):
        name = parse(reader.name)
        assert str(name) == reader.name and name.reads
        part = name.part or name.kind
        assert graph.reader(name.layer, part, name.index) == i
        assert (name.kind == "kv") == (graph.kv == "per_group" and part in ("k", "v"))


def test_a_heads_reader_is_no_writer_and_a_head_no_reader():
    assert parse("a10.h3<q>") == Name("head", 10, 3, "q") and parse("a10.h3<q>").node == "a10.h3"
    assert not parse("a1.h2<k>").writes and not parse("a1.h2").reads
    assert not parse("input").reads and not parse("logits").writes
    assert parse("m4").reads and parse("m4").writes
    assert not parse("a1.kv0").reads and not parse("a1.kv0").writes


@pytest.mark.parametrize(
    "name", ["", "a1", "a1.h", "a01.h2", "a1.h2<z>", "a1.kv0<q>", "m4<q>", "m-1", "m٣", "a1.h2 ",
             "input<q>", "m12345", "a1.h2->logits", "M4"],
)  # fmt: skip
def test_what_is_no_name(name):
    assert parse(name) is None


@given(st.from_regex(r"[am]?[0-9]{0,2}\.?(h|kv)?[0-9]{0,2}(<[qkv]>)?", fullmatch=True))
@pytest.mark.unchecked
def test_a_name_is_said_in_one_way(name):
    found = parse(name)
    assert found is None or str(found) == name
