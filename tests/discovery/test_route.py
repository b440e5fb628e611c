"""The route of one prompt: what can be asked, what is refused, and what is written down."""

import json
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_settings import CONF

from acdc.errors import InputError
from discovery.flow.answers import find_answer, to_json
from discovery.job.prepare import load
from discovery.settings.run import RouteSettings, read_as
from discovery.studies.route import read_question, table

IDS = (5, 9, 3, 40, 5, 9)


def settings(*overrides, **values):
    """conf/route.yaml; `values` as they are, past the grammar of the command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("route", list(overrides)), resolve=True)
    return read_as(RouteSettings, config | values)


@pytest.fixture(scope="module")
def loaded():
    return load(settings(ids=list(IDS)))


@pytest.fixture(scope="module")
def reading(loaded, make_tokenizer):
    """The same model with a tokenizer."""
    return replace(loaded, tokenizer=make_tokenizer(["When Mary and John, out"]))


def answer(loaded, *overrides, **values):
    chosen = settings(*overrides, **values)
    question = read_question(chosen, loaded)
    return find_answer(question, loaded, chosen.threshold, chosen.renormalise)


def test_text_becomes_tokens(reading):
    found = read_question(settings(text="When Mary, John", target=" Mary", contrast=4), reading)
    assert [reading.tokenizer.decode([i]) for i in found.ids] == ["When", " Mary", ",", " John"]
    assert found.position == 3 and found.target == (found.ids[1],) and found.contrast == (4,)
    longer = read_question(settings(text="When Mary", prepend_bos=True, position=-2), reading)
    assert longer.ids == (reading.tokenizer.bos_token_id, *found.ids[:2]) and longer.position == 1
    assert longer.target == ()


def test_a_prompt_of_a_task_starts_at_its_answer(loaded):
    one, two = (read_question(settings("task=induction", prompt=i), loaded) for i in (0, 3))
    assert one.ids != two.ids and two.position == len(two.ids) - 1 == 23
    last = len(two.ids) - 1 - two.ids[-2::-1].index(two.ids[-1]) - 1
    assert two.target == (two.ids[last + 1],)  # what followed the last token the first time
    state = read_question(settings("task=induction", prompt=3, from_state=True), loaded)
    assert state.target == () and state.ids == two.ids


BAD = {
    "nothing": ({}, "exactly one of text, ids and task, not none$"),
    "two": ({"text": "a", "ids": [1]}, "exactly one of .*, not text and ids"),
    "position": ({"ids": [1, 2], "position": 2}, "position=2: .* 2 tokens, .* -2 to 1"),
    "position low": ({"ids": [1, 2], "position": -3}, "position=-3: "),
    "position kind": ({"ids": [1], "position": "x"}, "position='x': "),
    "no ids": ({"ids": []}, r"ids=\[\]: at least one"),
    "id outside": ({"ids": [1, 128]}, r"ids holds 128: .* 0\.\.127"),
    "target outside": ({"ids": [1], "target": 128}, r"target=128: .* 0\.\.127"),
    "target kind": ({"ids": [1], "target": 1.5}, "target: 1.5 is neither the text of a token nor"),
    "target text": ({"ids": [1], "target": " a"}, "target=' a': .* no tokenizer; give the token"),
    "text": ({"text": "a"}, r"text='a': .* no tokenizer; give ids=\[...\]"),
    "contrast": ({"ids": [1], "contrast": 3}, "contrast=3 needs a target"),
    "both starts": ({"ids": [1], "target": 3, "from_state": True}, "leave out target"),
    "threshold": ({"ids": [1], "threshold": 1}, "threshold=1: .* less than 1"),
    "unknown": ({"ids": [1], "treshold": 1}, "treshold: there is no such field"),
    "bos": ({"ids": [1], "prepend_bos": True}, "prepend_bos=true is for text"),
}


@pytest.mark.parametrize("values, message", BAD.values(), ids=BAD.keys())
def test_refused_in_one_sentence(loaded, values, message):
    with pytest.raises(InputError, match=message) as caught:
        answer(loaded, **values)
    assert "\n" not in str(caught.value)


BAD_TEXT = {
    "empty": ({"text": ""}, "text is empty"),
    "two tokens": ({"text": "When", "target": " Mary and"}, "target=' Mary and', .* ' Mary', '"),
    "unknown word": ({"text": "When", "target": " zebra"}, "target=' zebra', which must be exact"),
    "no space": ({"text": "When", "target": "Mary"}, "did you mean ' Mary'"),
    "no target": ({"text": "When", "contrast": " Mary"}, "contrast=' Mary' needs a target"),
}


@pytest.mark.parametrize("values, message", BAD_TEXT.values(), ids=BAD_TEXT.keys())
def test_text_refused_in_one_sentence(reading, values, message):
    with pytest.raises(InputError, match=message):
        answer(reading, **values)


def test_a_prompt_that_the_task_does_not_have(loaded):
    with pytest.raises(InputError, match="prompt=4: the task has 4 prompts, .* 0 to 3; task.n"):
        answer(loaded, "task=induction", "task.n=4", prompt=4)
    with pytest.raises(InputError, match="position=0 is for text and ids"):
        answer(loaded, "task=induction", position=0)


@pytest.mark.parametrize("position", [3, -1])
def test_the_logit_is_the_models(loaded, position):
    found = answer(loaded, ids=list(IDS), target=9, contrast=3, position=position)
    logits = loaded.plain_logits(torch.tensor([IDS]))[0, position]
    assert found.logit == pytest.approx((logits[9] - logits[3]).item(), abs=1e-3)


@pytest.mark.parametrize("values", [{"target": 9}, {}, {"renormalise": False, "threshold": 0.2}])
def test_flow_is_accounted_for(loaded, values):
    found = to_json(answer(loaded, ids=list(IDS), **{"threshold": 0.0, **values}), loaded)
    assert json.loads(json.dumps(found)) == found
    flow, constants = found["flow"], [e for e in found["edges"] if e["kind"] == "constant"]
    assert sum(flow["input"]) + flow["constants"] + flow["dropped"] == pytest.approx(1)
    assert sum(e["flow"] for e in constants) == pytest.approx(flow["constants"])
    assert all(e["source"] is None for e in constants)
    assert bool(constants) == (found["threshold"] == 0)
    direct = [e["flow"] for e in found["edges"] if e["direct"]]
    assert (sum(direct) if direct else 1) == pytest.approx(1)
    assert found["start"]["kind"] == ("logit" if "target" in values else "state")
    bottom = {n["position"]: n["flow"] for n in found["nodes"] if n["state"] == "resid_pre"
              and n["layer"] == 0}  # fmt: skip
    assert bottom == pytest.approx({i: f for i, f in enumerate(flow["input"]) if f})


def test_nodes_take_what_their_edges_bring(loaded):
    """Every node's flow is that of its edges up, summed by hand from the written edges."""
    found = to_json(answer(loaded, "task=induction", prompt=1), loaded)
    up = {}
    for edge in found["edges"]:
        if edge["kind"] in ("head", "residual"):
            key = edge["layer"], edge["source"]
        elif edge["kind"] == "input":
            key = 0, edge["source"]
        else:
            continue
        up[key] = up.get(key, 0) + edge["flow"]
    nodes = {(n["layer"], n["position"]): n["flow"] for n in found["nodes"]
             if n["state"] == "resid_pre"}  # fmt: skip
    assert len(nodes) > 3 and up == pytest.approx(nodes)


def test_the_table_begins_with_the_largest_edge(loaded):
    found = answer(loaded, "task=induction", prompt=1)
    first = table(found, loaded).splitlines()[1].split()
    edges = [e for e in to_json(found, loaded)["edges"] if e["kind"] == "head"]
    most = max(edges, key=lambda e: e["flow"])
    assert first[:2] == [f"{most['flow']:.4f}", f"a{most['layer']}.h{most['head']}"]
