"""`circuits mib evaluate` against the figures of MIB's own code (four small random models)."""

import importlib
import json
import sys
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from mib_figures import FOLDER, MODELS, evaluation, theirs, there, words

from acdc.ablation import ABLATIONS
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.masked import masked_run
from discovery.mib import norms
from discovery.mib.scores import read_scores

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))
mib = importlib.import_module("mib")
PLAIN = MODELS[:3]  # of Gemma 2 circuits between empty and full are run otherwise: mib.md


def evaluate(folder, asked):
    """What the command writes."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = mib.plain(compose("mib", asked))
    mib.run(config, folder, asked)
    return json.loads((folder / "mib.json").read_text()), np.load(folder / "circuits.npz")


def far(ours, theirs):
    """The largest distance of faithfulness and of the three areas."""
    f = [point["faithfulness"] for point in ours["points"]]
    areas = {"cpr": "CPR_area_under", "cmd": "CMD_area_from_1", "average": "average"}
    return max(
        *(abs(a - b) for a, b in zip(f, theirs["faithfulnesses"], strict=True)),
        *(abs(ours[own] - theirs[other]) for own, other in areas.items()),
    )


CASES = [
    *((name, "all_lengths", "top_n", "json") for name in MODELS),
    *((name, "one_length", "greedy", "pt") for name in MODELS if name != "gpt2_deep_like"),
]


@there
@pytest.mark.parametrize("name, pairs, rule, suffix", CASES)
def test_circuits_and_curves_are_theirs(tmp_path, name, pairs, rule, suffix):
    found, kept = evaluate(tmp_path / "run", words(name, pairs, suffix, rule=rule))
    graph = Circuit.load(FOLDER / name / "importances.json").graph
    for ranking in ("signed", "absolute"):
        absolute = ranking == "absolute"
        curve = evaluation(name, pairs, "patching", rule, absolute)
        off = far(found[ranking], curve)
        assert off < 1e-6 if name in PLAIN else 1e-6 < off < 0.05, off
        assert found["cpr"] == found["signed"]["cpr"] and found["cmd"] == found["absolute"]["cmd"]
        own = {s["asked"]: s["edges"] for s in theirs(name)["selections"]
               if s["rule"] == rule and s["absolute"] == absolute}  # fmt: skip
        for point, mask in zip(found[ranking]["points"], kept[ranking], strict=True):
            if point["requested"] in own:
                wanted = {theirs(name)["edges"][i] for i in own[point["requested"]]}
                assert set(Circuit(graph, mask).edges) == wanted, (ranking, point)


@there
@pytest.mark.parametrize("cut, their", [("patching", "patching"), ("zero", "zero")])
def test_gemma_2_is_theirs_where_each_reader_norms_for_itself(tmp_path, cut, their):
    asked = words("gemma2_like", "one_length", cut=cut, post_norm="ignored")
    found, _ = evaluate(tmp_path / "run", asked)
    for ranking in ("signed", "absolute"):
        curve = evaluation("gemma2_like", "one_length", their, "top_n", ranking == "absolute")
        assert far(found[ranking], curve) < 1e-6


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_where_each_reader_norms_for_itself(family):
    """Without a norm it is the definition; with one the ends are, and what is between is not."""
    model = families.view(family)
    data = Data(model, model.graph(), families.prompts(2, length=4))
    legal, rng = data.graph.legal, np.random.default_rng(0)
    some = legal & (rng.random(legal.shape) < 0.5)
    with torch.no_grad():
        for mask in (legal, np.zeros_like(legal), some):
            one, two = norms.run(data[0], mask), masked_run(data[0], mask.astype(float))
            same = torch.allclose(one, two, atol=1e-9)
            assert same == (family == "gpt2" or mask is not some)
    mean = data.under(ABLATIONS["mean"])
    with pytest.raises(InputError, match="post_norm=ignored with ablation=mean"):
        norms.run(mean[0], some)


CUTS = {"mean_clean": "mean-positional", "zero_folded": "zero"}


@there
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["gpt2_like", "qwen2_like"])
def test_their_other_interventions_are_options(tmp_path, name, cut):
    found, _ = evaluate(tmp_path / "run", words(name, "one_length", cut=cut))
    for ranking in ("signed", "absolute"):
        curve = evaluation(name, "one_length", CUTS[cut], "top_n", ranking == "absolute")
        assert far(found[ranking], curve) < 1e-6


@pytest.mark.parametrize(
    "word, said",
    [
        ("scores=nowhere.pt", "scores='nowhere.pt': neither a file nor a run folder"),
        ("rule=best", "rule='best'.*top_n"),
        ("cut=mean", "cut='mean'.*patching"),
    ],
)
def test_refusals_come_before_any_model(tmp_path, word, said):
    asked = [f"scores={tmp_path}", word] if "scores" not in word else [word]
    with pytest.raises(InputError, match=said):
        evaluate(tmp_path / "run", asked)


def test_scores_that_do_not_rank(tmp_path):
    graph = Graph(2, 1, 1, 8)
    (tmp_path / "flat.json").write_text(json.dumps(Circuit(graph, graph.legal).to_json()))
    with pytest.raises(InputError, match="every edge has score 0, so there is no ranking"):
        read_scores(tmp_path / "flat.json", graph)
    with pytest.raises(InputError, match="neither a file nor a run folder with a circuit.json"):
        read_scores(tmp_path, graph)
