"""Circuits by construction whose edges matter at some tokens only: found there and only there."""

from dataclasses import replace

import numpy as np
import pytest

from acdc.data import Data
from acdc.metrics import METRICS
from acdc.search import acdc
from acdc.spans import spans_of
from discovery.truth.constructed import induction, mover


def with_marks(made, marks):
    """The first prompts, with the tokens that these functions of a row say."""
    prompts = made.prompts.take(range(40))
    rows = prompts.clean.tolist()
    end = prompts.clean.shape[1] - 1
    columns = {name: tuple(map(at, rows)) for name, at in marks.items()} | {"end": (end,) * 40}
    return replace(prompts, marks=columns)


def found(made, prompts, positions):
    graph = replace(made.model.graph(), spans=spans_of(prompts, positions))
    *_, last = acdc(Data(made.model, graph, prompts), METRICS["logit_diff"], 0.01)
    return graph, {graph.edge_name(w, r) for w, r in np.argwhere(last.mask).tolist()}


@pytest.mark.parametrize("seed", range(3))
def test_induction_reads_each_thing_where_it_stands(seed):
    """Who came before is read at the token before the match, and looked for at the end."""
    made = induction(np.random.default_rng(seed))
    marks = {"previous": lambda row: row[:-1].index(row[-1]),
             "match": lambda row: row[:-1].index(row[-1]) + 1}  # fmt: skip
    prompts = with_marks(made, marks)
    before, finds = (made.informed[i].partition("->")[2].partition("<")[0] for i in (0, 2))
    planted = {
        f"input->{before}<v>@previous", f"{before}->{finds}<k>@match", f"input->{finds}<q>@end",
        f"input->{finds}<v>@match", f"{finds}->logits",
    }  # fmt: skip
    graph, edges = found(made, prompts, "spans")
    assert edges == planted and len(graph.spans) == 5
    assert found(made, prompts, "none")[1] == set(made.informed)


@pytest.mark.parametrize("seed", range(3))
def test_a_mover_reads_the_key_of_one_name_and_the_value_of_the_other(seed):
    """Both names' keys and values are one edge each without spans: which is which is not said."""
    made = mover(np.random.default_rng(seed))
    named = {"s1": lambda row: 1 + (row[2] == row[4]), "io": lambda row: 1 + (row[1] == row[4]),
             "s2": lambda row: 4}  # fmt: skip
    prompts = with_marks(made, named)
    inhibits, moves = (made.informed[i].partition("->")[2].partition("<")[0] for i in (0, 1))
    _, edges = found(made, prompts, "spans")
    assert edges == {
        f"input->{inhibits}<v>@s2", f"{inhibits}->{moves}<q>@end", f"input->{moves}<k>@s1",
        f"input->{moves}<v>@io", f"{moves}->logits",
    }  # fmt: skip
    assert found(made, prompts, "none")[1] == set(made.informed)
