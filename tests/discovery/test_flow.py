"""Information flow routes: laws on every family, a slow twin, and one flow worked by hand."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import families
import pytest
import torch
import twin

from acdc.errors import InputError
from acdc.forward import trace
from acdc.metrics import LOGIT_DIFF
from acdc.model import Attention, Block, Model, Norm
from discovery.flow.routes import Kind, descend, find_route
from discovery.flow.shares import flow_graph, proximity

PROMPTS = families.prompts(n=2, length=6)
AIM = {"right": PROMPTS.answers, "wrong": PROMPTS.wrong}
FIELDS = ("heads", "resid", "constant", "mlp", "skip")


@pytest.fixture(scope="module", params=families.FAMILIES)
def model(request) -> Model:
    return families.view(request.param)


@pytest.fixture(scope="module")
def graph(model):
    return flow_graph(model, PROMPTS.clean, **AIM)


# ---- the measure ---------------------------------------------------------------------------------


def test_proximity_by_hand():
    whole = torch.tensor([3.0, 1.0])
    parts = torch.tensor([[2.0, 0.0], [1.0, 2.0], [0.0, -1.0], [0.0, 0.0], [3.0, 1.0]])
    assert proximity(parts, whole.expand(5, 2)).tolist() == [2, 1, 0, 0, 4]


def test_shares_of_every_step_sum_to_one_and_none_is_negative(model, graph):
    for name in FIELDS:
        assert (getattr(graph, name) >= 0).all()
    total = graph.heads.sum((-1, -2)) + graph.resid + graph.constant
    total = total + graph.mlp if model.parallel else total
    second = graph.skip if model.parallel else graph.mlp + graph.skip
    for step in (total, second, graph.logit.shares().flat().sum(1)):
        torch.testing.assert_close(step, torch.ones_like(step), atol=1e-12, rtol=0)
    assert (graph.logit.shares().flat() >= 0).all()
    assert graph.heads.max() > 0.05 and not graph.undefined.any()
    later = torch.ones(6, 6).triu(1).bool()
    assert (graph.heads[:, :, later] == 0).all()


def test_contributions_and_constants_sum_to_the_contrast(model, graph):
    logits = trace(model, PROMPTS.clean).logits
    expected = LOGIT_DIFF.bind(PROMPTS, logits).of_logits(logits)
    torch.testing.assert_close(graph.logit.flat().sum(1), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(graph.logit.value, expected, atol=1e-9, rtol=0)
    one = flow_graph(model, PROMPTS.clean, right=PROMPTS.answers).logit
    rows = torch.stack([logits[i, ids[0]] for i, ids in enumerate(PROMPTS.answers)])
    torch.testing.assert_close(one.flat().sum(1), rows, atol=1e-9, rtol=0)


def literal_step(model: Model, layer: int, b: int, t: int, run):
    """Parts of a state after attention (parallel: after the layer), and of the one after the MLP.

    One head and one source token at a time; every sum of parts is checked against its whole.
    """
    block, streams = model.blocks[layer], run.streams[:, b]
    attn, x = block.attn, streams[2 * layer]
    y = twin.norm(block.ln1, x)
    parts = {"resid": x[t], "constant": torch.zeros_like(x[t])}
    if attn.b_O is not None:
        parts["constant"] = attn.b_O
    for h in range(model.n_heads):
        group = h // (model.n_heads // model.n_kv_heads)
        for k in range(t + 1):
            v = y[k] @ attn.W_V[group]
            v = v if attn.b_V is None else v + attn.b_V[group]
            parts[h, k] = run.patterns[layer][b, h, t, k] * (v @ attn.W_O[h])
    mid, after = streams[2 * layer + 1][t], streams[2 * layer + 2][t]
    second = {"skip": mid, "mlp": after - mid}
    if model.parallel:
        parts, second, mid = parts | {"mlp": after - mid}, {}, after
    torch.testing.assert_close(sum(parts.values()), mid, atol=1e-9, rtol=0)
    return parts, mid, second, after


def literal_shares(parts, whole):
    near = {}
    for name, part in parts.items():
        lost = sum(abs(w) - abs(w - z) for w, z in zip(whole.tolist(), part.tolist(), strict=True))
        near[name] = max(0.0, lost)
    return {name: p / sum(near.values()) for name, p in near.items()}


def test_shares_equal_literal_loops(model, graph):
    run = trace(model, PROMPTS.clean)
    seen = 0
    for layer in range(len(model.blocks)):
        for b in range(2):
            for t in range(6):
                parts, mid, second, after = literal_step(model, layer, b, t, run)
                shares = literal_shares(parts, mid)
                if second and model.blocks[layer].mlp is not None:
                    shares |= literal_shares(second, after)
                for name, expected in shares.items():
                    where = (layer, b, t) if isinstance(name, str) else (layer, b, t, *name[::-1])
                    field = name if isinstance(name, str) else "heads"
                    assert getattr(graph, field)[where].item() == pytest.approx(expected, abs=1e-10)
                    seen += expected > 0
    assert seen > 200


@pytest.mark.parametrize("chunk", [1, 2, 4, 6, 100])
def test_chunks_change_nothing(model, graph, chunk, monkeypatch):
    monkeypatch.setattr("discovery.flow.shares.BLOCK", 32 * 5)  # five (token, head) pairs at a time
    other = flow_graph(model, PROMPTS.clean, chunk=chunk, **AIM)
    for name in FIELDS:
        torch.testing.assert_close(getattr(other, name), getattr(graph, name), atol=1e-12, rtol=0)
    later = torch.ones(6, 6).triu(1).bool()
    assert (other.heads[:, :, later] == 0).all()  # not a rounding error either


def test_grouped_queries_equal_copied_keys_and_values():
    model = families.view("qwen2")
    share = torch.tensor([model.kv_head(h) for h in range(model.n_heads)])
    names = ("W_K", "W_V", "b_K", "b_V")
    blocks = tuple(
        replace(b, attn=replace(b.attn, **{n: getattr(b.attn, n)[share] for n in names}))
        for b in model.blocks
    )
    copied = replace(model, blocks=blocks, n_kv_heads=model.n_heads)
    assert model.n_kv_heads < model.n_heads
    one, two = (flow_graph(m, PROMPTS.clean, **AIM) for m in (model, copied))
    torch.testing.assert_close(one.heads, two.heads, atol=1e-12, rtol=0)
    torch.testing.assert_close(one.logit.heads, two.logit.heads, atol=1e-12, rtol=0)


def test_a_state_whose_parts_have_no_share_is_divided_by_size_and_counted(hand_model):
    """W_V = W_O = 0 and an embedding of zeros: nothing, so all of it to the state below."""
    attn = replace(hand_model.blocks[0].attn, b_O=None)
    empty = replace(
        hand_model, W_E=torch.zeros(2, 2).double(),
        blocks=(replace(hand_model.blocks[0], attn=attn),),
    )  # fmt: skip
    graph = flow_graph(empty, torch.tensor([[0, 1]]))
    assert graph.undefined[0].all() and (graph.resid == 1).all()
    assert find_route(graph).undefined == 1
    # parts (1, -2) and (-2, 1) of the whole (-1, -1): both proximities are 2 - 3 < 0
    attn = replace(attn, W_V=torch.tensor([[[1.0], [0.0]]]).double(), b_V=None)
    attn = replace(attn, W_O=torch.tensor([[[-2.0, 1.0]]]).double())
    clash = replace(
        hand_model, W_E=torch.tensor([[1.0, -2.0], [0.0, 0.0]]).double(),
        blocks=(replace(hand_model.blocks[0], attn=attn),),
    )  # fmt: skip
    graph = flow_graph(clash, torch.tensor([[0]]))
    assert graph.undefined[0].all()
    assert (graph.resid.item(), graph.heads.item()) == (0.5, 0.5)


# ---- routes --------------------------------------------------------------------------------------


def literal_flow(model: Model, graph, b: int, start, threshold: float):
    """Flow into embeddings by token, dict by dict, from {(level, token): flow}."""
    into, flow, constant = defaultdict(float), defaultdict(float, start), 0.0
    for layer in reversed(range(len(model.blocks))):
        for t in range(6):
            if not model.parallel:
                second = {"mlp": graph.mlp[layer, b, t], "skip": graph.skip[layer, b, t]}
                second = {n: float(s) for n, s in second.items() if s > threshold}
                if second:  # both lead to the state after attention
                    flow[2 * layer + 1, t] += flow[2 * layer + 2, t]
            else:
                flow[2 * layer + 1, t] += flow[2 * layer + 2, t]
            edges = {("r", t): graph.resid[layer, b, t], ("c", t): graph.constant[layer, b, t]}
            for k in range(t + 1):
                for h in range(model.n_heads):
                    edges[h, k] = graph.heads[layer, b, t, k, h]
            if model.parallel:
                edges["m", t] = graph.mlp[layer, b, t]
            edges = {name: float(s) for name, s in edges.items() if s > threshold}
            for (name, k), share in edges.items():
                part = flow[2 * layer + 1, t] * share / sum(edges.values())
                if name == "c":
                    constant += part
                else:
                    flow[2 * layer, k] += part
                    into[layer, name, k, t] += part
    return [flow[0, t] for t in range(6)], constant, into


@pytest.mark.parametrize("threshold", [0.0, 0.06])
def test_routes_equal_literal_loops(model, graph, threshold):
    route = find_route(graph, 1, position=4, threshold=threshold)
    inputs, constant, into = literal_flow(model, graph, 1, {(4, 4): 1.0}, threshold)
    assert route.input.tolist() == pytest.approx(inputs, abs=1e-12)
    assert route.constant == pytest.approx(constant, abs=1e-12)
    heads = route.edges[route.edges["kind"] == Kind.HEAD]
    keys = zip(*(heads[n].tolist() for n in ("layer", "head", "source", "target")), strict=True)
    found = dict(zip(keys, heads["flow"].tolist(), strict=True))
    expected = {k: f for k, f in into.items() if isinstance(k[1], int) and f > 0}
    assert found == pytest.approx(expected, abs=1e-12) and len(found) > 2


@pytest.mark.parametrize("position", [None, 3])
def test_flow_is_conserved_and_threshold_zero_keeps_everything(model, graph, position):
    route = find_route(graph, position=position, threshold=0.0)
    assert route.lost == pytest.approx(0, abs=1e-12) and route.dead_ends == 0
    at = 3 if position else 5
    heads = route.edges[(route.edges["kind"] == Kind.HEAD) & ~route.edges["direct"]]
    top = graph.heads[-1, 0, at] if position else graph.logit.shares().heads[-1, 0]
    top_rows = heads if position else route.edges[
        (route.edges["kind"] == Kind.HEAD) & route.edges["direct"]
    ]  # fmt: skip
    assert (top_rows["layer"] == len(model.blocks) - 1).sum() == int((top > 0).sum())
    below = heads[heads["layer"] == 0]
    reached = route.states[1] > 0 if not model.parallel else route.states[2] > 0
    assert len(below) == int((graph.heads[0, 0][reached] > 0).sum())
    if position is None:
        direct = route.edges[route.edges["direct"]]
        assert len(direct) == int((graph.logit.shares().flat()[0] > 0).sum())
        assert direct["flow"].sum() == pytest.approx(1, abs=1e-12)


def test_no_later_token_is_on_a_route(model, graph):
    route = find_route(graph, position=3, threshold=0.0)
    assert route.edges["source"].max() == route.edges["target"].max() == 3
    assert (route.states[:, 4:] == 0).all() and (route.states[:, 3] > 0).all()
    other = PROMPTS.clean.clone()
    other[:, 4:] = 7
    again = find_route(flow_graph(model, other), position=3, threshold=0.0)
    torch.testing.assert_close(again.states, route.states, atol=1e-12, rtol=0)
    assert (find_route(graph).edges["source"] <= 5).all()


def test_a_higher_threshold_only_removes_and_both_modes_keep_the_same(graph):
    def names(route):
        columns = ("kind", "direct", "layer", "head", "source", "target")
        return set(zip(*(route.edges[c].tolist() for c in columns), strict=True))

    before = names(find_route(graph, threshold=0.0))
    for threshold in (0.01, 0.03, 0.1, 0.4):
        plain = find_route(graph, threshold=threshold, renormalise=False)
        full = find_route(graph, threshold=threshold)
        assert names(plain) == names(full) <= before
        assert plain.lost >= full.lost - 1e-12
        assert full.lost == pytest.approx(0, abs=1e-12) or full.dead_ends
        before = names(full)
    assert len(find_route(graph, threshold=0.99, position=-1).edges) < 20


# ---- by hand -------------------------------------------------------------------------------------


@pytest.fixture
def hand_model() -> Model:
    """One layer, one head of width 1, no norms, no MLP; every score is 0, so attention is even."""

    def tensor(*rows):
        return torch.tensor(rows, dtype=torch.float64)

    none = Norm("none")
    attn = Attention(
        W_Q=tensor([[0.0], [0.0]]), W_K=tensor([[0.0], [0.0]]), W_V=tensor([[1.0], [1.0]]),
        W_O=tensor([[1.0, 0.5]]), b_Q=None, b_K=None, b_V=None, b_O=tensor(0.0, -0.5),
        q_norm=none, k_norm=none, scale=1.0,
    )  # fmt: skip
    return Model(
        name="hand", n_heads=1, n_kv_heads=1, parallel=False, n_ctx=4, embed_scale=1.0,
        W_E=tensor([4.0, 0.0], [0.0, 2.0]), W_pos=None,
        blocks=(Block(none, attn, None, None),), ln_final=none, W_U=torch.eye(2).double(), b_U=None,
    )  # fmt: skip


def test_flow_worked_by_hand(hand_model):
    """Values are 4 and 2, times (1, 1/2).

    token 0: (4, 0) + (4, 2) + b_O (0, -.5) = (8, 1.5), norm 9.5
        state 9.5 - (4 + 1.5) = 4     head 9.5 - (4 + .5) = 5     b_O 9.5 - (8 + 2) < 0
    token 1: (0, 2) + (2, 1) from token 0 + (1, .5) from itself + (0, -.5) = (3, 3), norm 6
        state 6 - (3 + 1) = 2    token 0 6 - (1 + 2) = 3    itself 6 - (2 + 2.5) = 1.5    b_O < 0
    """
    graph = flow_graph(hand_model, torch.tensor([[0, 1]]), right=[[0]], wrong=[[1]])
    assert graph.resid[0, 0].tolist() == pytest.approx([4 / 9, 4 / 13])
    assert graph.heads[0, 0, :, :, 0].flatten().tolist() == pytest.approx(
        [5 / 9, 0, 6 / 13, 3 / 13]
    )
    assert graph.constant[0, 0].tolist() == [0, 0]
    full = find_route(graph, position=-1, threshold=0.0)
    assert full.input.tolist() == pytest.approx([6 / 13, 7 / 13])
    route = find_route(graph, position=-1, threshold=0.25)  # 3/13 goes
    assert route.edges["share"].tolist() == pytest.approx([0.6, 0.4])
    assert route.input.tolist() == pytest.approx([0.6, 0.4])
    plain = find_route(graph, position=-1, threshold=0.25, renormalise=False)
    assert plain.input.tolist() == pytest.approx([6 / 13, 4 / 13])
    assert plain.lost == pytest.approx(3 / 13)
    dead = find_route(graph, position=-1, threshold=0.5)
    assert (dead.dead_ends, dead.lost, len(dead.edges)) == (1, 1, 0)


def test_logit_step_worked_by_hand(hand_model):
    """Coordinate 0 less coordinate 1 of (0, 2), (2, 1), (1, .5) and b_O (0, -.5)."""
    graph = flow_graph(hand_model, torch.tensor([[0, 1]]), right=[[0]], wrong=[[1]])
    step = graph.logit
    assert step.input.tolist() == [-2] and step.heads.flatten().tolist() == [1, 0.5]
    assert step.constant.tolist() == [0.5] and step.value.tolist() == [0]
    assert step.shares().flat().flatten().tolist() == [0, 0.5, 0.25, 0, 0.25]
    route = find_route(graph, threshold=0.0)
    assert route.from_logit and route.constant == 0.25
    assert route.input.tolist() == [0.5, 0.25]


def test_top_of_the_walk_and_its_parts(hand_model):
    graph = flow_graph(hand_model, torch.tensor([[0, 1], [1, 0]]), right=[[0]] * 2)
    (layer,) = list(descend(graph))
    total = layer.below.sum(1) + layer.constant.sum(1) + layer.logit.constant
    assert total.tolist() == pytest.approx([1, 1])


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"position": 2}, "position 2 is outside the prompt's 2 tokens"),
        ({"position": -3}, "position -3"),
        ({"chunk": 0}, "chunk=0"),
        ({"right": [[2]]}, "prompt 1: right token 2 is outside 0..1"),
        ({"right": [[0]], "wrong": [[-1]]}, "wrong token -1"),
        ({"right": [[]]}, "`right` must hold token ids"),
        ({"right": [[0], [1]]}, "each of 1 prompts"),
        ({"wrong": [[0]]}, "`wrong` needs `right`"),
    ],
)
def test_refusals_of_the_graph(hand_model, kwargs, message):
    with pytest.raises(InputError, match=message):
        flow_graph(hand_model, torch.tensor([[0, 1]]), **kwargs)


def test_refusals_of_tokens_and_routes(hand_model):
    for tokens in ([[0, 2]], [[-1, 0]]):
        with pytest.raises(InputError, match=r"token (2|-1) is outside 0..1"):
            flow_graph(hand_model, torch.tensor(tokens))
    with pytest.raises(InputError, match="5 tokens"):
        flow_graph(hand_model, torch.zeros(1, 5, dtype=torch.long))
    graph = flow_graph(hand_model, torch.tensor([[0, 1]]))
    for kwargs in ({"position": 2}, {"threshold": 1.0}, {"threshold": -0.1}, {"prompt": 1}):
        with pytest.raises(InputError, match=next(iter(kwargs))):
            find_route(graph, **kwargs)
