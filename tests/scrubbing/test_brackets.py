"""Bracket features by hand, and graphs that must equal the network, on a random network."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from acdc.errors import InputError
from discovery.experiments import brackets
from discovery.experiments.bracket_network import load_brackets, tokenize
from discovery.experiments.brackets_features import (
    BAD,
    END_AFTER_CLOSE,
    END_AFTER_OPEN,
    GOOD,
    PADDING,
    adjusted_shares,
    horizon_all,
    horizon_parts,
    shares,
    string_features,
)
from discovery.experiments.brackets_graph import computation, early_heads, late_head, prepare
from discovery.experiments.brackets_report import read_strings
from discovery.runs.folder import read_run
from discovery.settings.run import read_scrub_settings

ROOT = Path(__file__).parents[2]
POSITIONS, D_MODEL, D_HEAD, D_MLP = 10, 16, 6, 8


def is_balanced(string):
    depths = np.cumsum([1 if c == "(" else -1 for c in string])
    return bool(depths.min() >= 0 and depths[-1] == 0)


ONCE = ["".join(s) for n in (2, 4, 6, 8) for s in itertools.product("()", repeat=n)]
EVERY = ONCE + 10 * [s for s in ONCE if is_balanced(s)]  # 43 % balanced


def random_tensors(seed=0):
    g = torch.Generator().manual_seed(seed)

    def weight(*shape):
        return 0.5 * torch.randn(*shape, generator=g)

    tensors = {
        "embed.W_E": weight(5, D_MODEL), "pos_embed.W_pos": weight(POSITIONS, D_MODEL),
        "unembed.W_U": weight(D_MODEL, 2), "unembed.b_U": weight(2),
    }  # fmt: skip
    norms = ["ln_final"] + [f"blocks.{layer}.{n}" for layer in range(3) for n in ("ln1", "ln2")]
    for name in norms:
        tensors |= {f"{name}.w": 1 + 0.1 * weight(D_MODEL), f"{name}.b": weight(D_MODEL)}
    for layer in range(3):
        a, m = f"blocks.{layer}.attn", f"blocks.{layer}.mlp"
        for part in "QKV":
            tensors |= {
                f"{a}.W_{part}": weight(2, D_MODEL, D_HEAD),
                f"{a}.b_{part}": weight(2, D_HEAD),
            }
        tensors |= {f"{a}.W_O": weight(2, D_HEAD, D_MODEL), f"{a}.b_O": weight(D_MODEL)}
        tensors |= {f"{m}.W_in": weight(D_MODEL, D_MLP), f"{m}.b_in": weight(D_MLP)}
        tensors |= {f"{m}.W_out": weight(D_MLP, D_MODEL), f"{m}.b_out": weight(D_MODEL)}
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights in float64, so that a wrong term cannot hide in rounding.

    Only the unembedding is fitted (least squares), or there would be nothing to recover.
    """
    path = tmp_path_factory.mktemp("weights")
    tensors = {name: t.double() for name, t in random_tensors().items()}
    save_file(tensors, path / "model.safetensors")
    network = load_brackets(path)
    bias = torch.stack([layer.b_O for layer in network.layers]).sum(0)
    final = network.run(torch.tensor(tokenize(EVERY, POSITIONS))).terms.sum(1) + bias
    read = torch.cat([network.ln_final(final), torch.ones(len(EVERY), 1)], 1)
    wanted = torch.tensor([3.0 if is_balanced(s) else -3.0 for s in EVERY]).double()
    found = torch.linalg.lstsq(read, wanted[:, None]).solution
    tensors["unembed.W_U"] = torch.cat([0 * found[:-1], found[:-1]], 1)
    tensors["unembed.b_U"] = torch.cat([0 * found[-1], found[-1]])
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def network(folder):
    return load_brackets(folder)


@pytest.fixture(scope="module")
def data(network):
    return prepare(network, tokenize(EVERY, POSITIONS), batch=100)


def features(*strings):
    return {k: v.tolist() for k, v in string_features(tokenize(strings, POSITIONS)).items()}


def test_features_by_hand():
    found = features("()", ")(", "((", "())(", "(())")
    assert found["start"] == [True, False, True, True, True]
    assert found["count"] == [True, True, False, True, True]
    assert found["count_start"] == [True, False, False, True, True]
    assert found["horizon"] == [True, False, False, False, True]
    assert found["balanced"] == [True, False, False, False, True]
    assert found["length"] == [2, 2, 2, 4, 4] and found["half_parity"] == [1, 1, 1, 0, 0]
    assert found["open_share"] == [0.5, -1, 1, 0.5, 0.5]


def test_verdicts_of_positions_by_hand():
    tokens = tokenize(["())(", "(())"], 8)
    assert shares(tokens)[0].tolist() == [0.5, 0.5, 1 / 3, 0.5, 1, 0, 0, 0]
    parts = horizon_parts(tokens, shares(tokens))
    pads = [PADDING, PADDING]
    assert parts[0].tolist() == [GOOD, GOOD, GOOD, GOOD, BAD, END_AFTER_OPEN, *pads]
    assert parts[1].tolist() == [GOOD] * 5 + [END_AFTER_CLOSE, *pads]
    assert horizon_all(parts).tolist() == [False, True]


def test_balanced_is_the_textbook_one(data):
    assert data.labels.tolist() == [int(is_balanced(s)) for s in EVERY]
    plain = horizon_all(horizon_parts(data.tokens.numpy(), data.share))
    assert np.array_equal(plain, data.features["horizon"])


def test_a_head_that_attends_everywhere_weighs_all_alike(network, data):
    first = network.layers[0]
    blind = replace(first, W_Q=0 * first.W_Q, b_Q=0 * first.b_Q)
    flat = replace(network, layers=(blind, *network.layers[1:]))
    tokens = data.tokens.numpy()
    inside = np.arange(POSITIONS) <= data.features["length"][:, None]
    whole = np.where(inside, data.share[:, :1], 0)
    assert adjusted_shares(flat, tokens) == pytest.approx(whole, abs=1e-12)
    assert np.abs(data.adjusted - whole).max() > 0.01


def test_weights_are_the_same_before_and_the_same_after(network):
    """Where the numbers before i and from i on agree, the order within them is of no account."""
    one, other = adjusted_shares(network, tokenize(["()()((", "(())(("], POSITIONS))
    assert one[[0, 1, 5, 6]] == pytest.approx(other[[0, 1, 5, 6]], abs=1e-12)
    assert abs(one[3] - other[3]) > 1e-3


def test_no_padding_is_read(network):
    short, long = (network.run(torch.tensor(tokenize(["(())", "))"], n))).z for n in (6, 10))
    assert short.tolist() == pytest.approx(long.tolist(), abs=1e-12)
    assert network.run(torch.tensor(tokenize(["(("], 6))).z != pytest.approx(long[1].item())


@pytest.mark.parametrize("split", ["whole", "direction", "estimate"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_every_graph_is_the_network(data, split, late, stored):
    opened = [early_heads(data, split)] + ([late_head(data)] if late else [])
    graph = computation(data, *opened)
    graph = graph if stored else replace(graph, stored={})
    rows = np.arange(data.size)
    assert graph.run("z", rows).numpy() == pytest.approx(data.z, abs=1e-9)
    ids = data.tokens
    assert data.network.run(ids).z.numpy() == pytest.approx(data.z, abs=1e-9)


def test_merged_heads_are_the_network(data):
    graph = computation(data, together=("1.0", "2.0"))
    assert "1.0+2.0" in graph.nodes
    assert graph.run("z", np.arange(data.size)).numpy() == pytest.approx(data.z, abs=1e-9)


def test_ends_of_the_ladder(data):
    """Nothing swapped is the model; everything swapped the baseline, in expectation."""
    first, second = brackets.ladder(data)[:2]
    references = np.arange(data.size)
    same = brackets.run(data, first, references, seed=0)
    assert same.recovered.value == pytest.approx(1) and same.effect.rms < 1e-9
    none = brackets.run(data, second, references, seed=0, draws=200)
    expected = brackets.baseline(data).mean()
    assert none.recovered.scrubbed_loss == pytest.approx(expected, abs=0.05)
    pairs = brackets.losses(data.z[None].repeat(data.size, 0), data.labels[:, None])
    assert pairs.mean() == pytest.approx(expected)


def test_what_the_chain_of_claims_keeps(data):
    """4 = everything at once: each datum agrees with the one below on the right feature."""
    whole = next(e for e in brackets.ladder(data) if e.name == "4")
    references = np.arange(data.size)
    done = brackets.scrub(
        whole.computation, whole.hypothesis, references, np.random.default_rng(0), draws=2
    )
    keep = {
        "z/1.0": ("count_start", "z"),
        "z/2.0/stream2 at 1": ("count_start", "z/2.0"),
        "z/2.0/stream2 at 1/0.0 at 1": ("open_share", "z/2.0/stream2 at 1"),
        "z/2.0/stream2 at 1/0.0 at 1/0.0 estimate": ("open_share", "z/2.0/stream2 at 1/0.0 at 1"),
        "z/1.0/stream1 at 1/embedding": ("start", "z/1.0/stream1 at 1"),
        "z/2.1/2.1 padded": ("length", "z/2.1"),
    }
    for claim, (feature, below) in keep.items():
        values = data.features[feature]
        assert np.array_equal(values[done.data[claim]], values[done.data[below]]), claim
        assert not np.array_equal(done.data[claim], done.data[below]), claim
    parts = horizon_parts(data.tokens.numpy(), data.adjusted, 1e-6)
    for i in range(POSITIONS):
        own = parts[done.data[f"z/2.1/2.1 at {i}"], i]
        assert np.array_equal(own, parts[done.data["z/2.1"], i])
    assert len(done.data) == 1 + 2 * 5 + 1 + POSITIONS + 1


def test_the_label_as_feature_keeps_nothing_beyond_it(data):
    trivial = next(e for e in brackets.controls(data) if e.name == "trivial")
    found = brackets.run(data, trivial, np.arange(data.size), seed=0)
    assert found.retained.beyond_label == 0 and found.retained.information > 0


@pytest.mark.parametrize("string, words", [("(a)", ["'(a)'"]), ("(" * 9, ["1 to 8"]), ("", ["''"])])
def test_strings_that_do_not_fit(string, words):
    with pytest.raises(InputError) as error:
        tokenize(["()", string], POSITIONS)
    assert all(word in str(error.value) for word in ["string 2", *words])


def test_weights_that_do_not_fit(tmp_path):
    file = tmp_path / "model.safetensors"
    tensors = random_tensors()
    del tensors["blocks.1.attn.b_O"]
    save_file(tensors, file)
    with pytest.raises(InputError, match="blocks.1.attn.b_O"):
        load_brackets(file)
    file.write_bytes(b"nothing")
    for path in (file, tmp_path / "absent"):
        with pytest.raises(InputError, match="no readable safetensors"):
            load_brackets(path)


def test_unreadable_strings(tmp_path):
    with pytest.raises(InputError, match="absent"):
        read_strings(tmp_path / "absent.gz")


def test_the_script(folder, here, tmp_path):
    (tmp_path / "strings.txt").write_text("\n".join(EVERY))
    files = (f"weights={folder}", f"strings={tmp_path / 'strings.txt'}")
    words = (f"hydra.run.dir={tmp_path / 'run'}", *files, "references=100", "draws=2")
    code, out, err = here("scrub.py", *words)
    assert code == 0, err
    assert read_run(tmp_path / "run").state == "done"
    found = json.loads((tmp_path / "run" / "scrub.json").read_text())
    names = [one["name"] for one in found["results"]]
    assert names[:4] == ["0a", "0b", "1a", "1b"] and "4" in names and "trivial" in names
    assert all(f"\n{name} | " in out for name in names)
    assert len(found["roles"]) == 64 and found["null"]["1b"]["members"] == 63
    assert found["null"]["trivial"]["members"] == 64 and "rank" in out
    assert found["results"][1]["effect"]["scrub_variance"] > 0


SETTINGS = {"experiment": "brackets", "weights": "x", "strings": "y", "references": 100,
            "draws": 1, "seed": 0}  # fmt: skip


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("references", 5, ["references=5", "100"]),
        ("weights", None, ["weights is required"]),
        ("experiment", "none", ["experiment='none'", "brackets"]),
        ("draws", 0, ["draws=0"]),
        ("colour", 1, ["colour", "no such field"]),
    ],
)
def test_bad_settings_are_one_clear_error(field, value, words):
    assert read_scrub_settings(SETTINGS).references == 100
    with pytest.raises(InputError) as error:
        read_scrub_settings({**SETTINGS, field: value})
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.slow
def test_the_script_ends_with_one_line(tmp_path):
    words = (f"hydra.run.dir={tmp_path / 'run'}", f"weights={tmp_path / 'absent'}", "strings=y")
    done = subprocess.run(
        [sys.executable, "scripts/scrub.py", *words], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "absent" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run" / "status.json").exists()
