"""Runs whose edges are at spans of positions: found, read again, judged, refused."""

import json

import pytest
from test_settings import settings

import discovery as cd
from acdc.circuit import Circuit
from acdc.errors import InputError
from discovery.explanation.runs import explain_run
from discovery.job.pipeline import discover
from discovery.settings.explanation import ExplainSettings

pytestmark = pytest.mark.unchecked
SPANS = ["start", "previous", "match", "..end", "end"]
ASKED = ["task.n=8", "tune=0", "test=8", "method=eap", "method.n_edges=50"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans") / "run"
    discover(settings(*ASKED, "graph.positions=spans"), folder, [], print)
    return folder


def test_the_circuit_says_where(run):
    """A previous token head is read where the match is, and the queries at the end."""
    circuit = Circuit.load(run / "circuit.json")
    assert list(circuit.graph.spans.names) == SPANS
    assert any(e.startswith("a0.h3->a1.h") and e.endswith("<k>@match") for e in circuit.edges)
    assert not [e for e in circuit.edges if "->a1" in e and "<q>" in e and "@end" not in e]
    result = json.loads((run / "result.json").read_text())
    assert result["n_edges"] == len(circuit) and result["n_edges_total"] == 1217
    assert result["splits"]["test"]["faithfulness"] > 0.8
    heads = json.loads((run / "heads.json").read_text())["heads"]
    assert set(heads) == {n for n in circuit.nodes if n[0] == "a"}


@pytest.mark.slow
def test_the_file_is_a_circuit_for_others_of_the_same_spans(run):
    file = f"method.circuit={run / 'circuit.json'}"
    again = run.parent / "again"
    discover(
        settings(*ASKED[:2], "test=0", "method=given", file, "graph.positions=spans"),
        again,
        [],
        print,
    )
    both = [Circuit.load(folder / "circuit.json").edges for folder in (run, again)]
    assert both[0] == both[1]
    for positions in ("none", "tokens"):
        with pytest.raises(InputError, match="its edges are of the spans start previous match"):
            asked = settings(
                *ASKED[:2], "test=0", "method=given", file, f"graph.positions={positions}"
            )
            discover(asked, run.parent / positions, [], print)


def test_from_python_it_is_measured_and_validated(run):
    model = cd.load("induction")
    task = cd.task("induction", model, n=8)
    found = cd.discover(
        model, task, "eap", n_edges=60, positions="spans", tune=0, test=8, metric="logit_diff"
    )
    assert list(found.circuit.graph.spans.names) == SPANS
    measured = found.circuit.evaluate(task)
    assert measured.circuit == pytest.approx(found.result["splits"]["search"]["circuit"], rel=1e-4)
    judged = cd.validate(found, prompts=80, budget=0.05)
    assert judged.figures["decision"]["verdict"]


def test_what_says_nothing_of_positions_is_refused(run):
    with pytest.raises(InputError, match="graph.positions='here'|positions"):
        settings("graph.positions=here")
    with pytest.raises(
        InputError, match="its edges are of spans .* search with graph.positions=no"
    ):
        explain_run(run, ExplainSettings(), print)
