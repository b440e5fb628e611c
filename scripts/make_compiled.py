"""Compile RASP programs (Weiss et al. 2021) into transformers with tracr (Lindner et al. 2023).

    python scripts/make_compiled.py weights
    python scripts/make_compiled.py edges

The first needs `pip install tracr-pypi safetensors`, in an environment of its own; nothing else
here does. It writes weights as compiled, float32, and what their directions are called into
discovery/truth/programs. The second asks which of the compiled edges matter (two minutes), and
writes that. What reads both is discovery/truth/compiled.py. Attention is causal and the answer
stands at the last position, so programs are taken that are right there: sorting and reversing a
whole sequence look ahead, hence `place`, where sorting would put the last number, and the last
token of the reversed sequence.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def _of_tracr(module: str) -> Any:
    try:
        return import_module(f"tracr.{module}")
    except ImportError:  # edges do not need it
        return None


compiling, lib, rasp = map(_of_tracr, ("compiler.compiling", "compiler.lib", "rasp.rasp"))

OUT = Path(__file__).resolve().parents[1] / "discovery" / "truth" / "programs"
LETTERS, NUMBERS, BRACKETS = ["a", "b", "c"], [1, 2, 3, 4, 5], ["(", ")"]


def hist(name: str) -> Any:
    """How often each token has come, itself included."""
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ)).named(name)


def fraction(token: str, name: str) -> Any:
    """Which share of the tokens so far is this one."""
    return lib.make_frac_prevs(rasp.numerical(rasp.tokens == token)).named(name)


def new(name: str) -> Any:
    """A token that has not come before, else "-"."""
    return rasp.SequenceMap(
        lambda token, n: token if n == 1 else "-", rasp.tokens, hist("times")
    ).named(name)


def programs() -> dict[str, tuple[Any, list[Any], int]]:
    """Name -> program, vocabulary, longest sequence."""
    smaller = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.LT)
    spare = rasp.SequenceMap(lambda n, token: n, hist("n"), new("spare"))
    halves = rasp.LinearSequenceMap(fraction("a", "as"), fraction("b", "bs"), 1.0, 0.0)
    return {
        "reverse": (lib.make_reverse(rasp.tokens), LETTERS, 5),
        "place": (rasp.SelectorWidth(smaller).named("place"), NUMBERS, 5),
        "fraction": (fraction("a", "fraction"), LETTERS, 5),
        "brackets": (lib.make_shuffle_dyck(["()"]), BRACKETS, 6),
        "balance": (lib.make_pair_balance(rasp.tokens, "(", ")"), BRACKETS, 6),
        "new": (new("new"), LETTERS, 5),
        "count": (lib.make_count(rasp.tokens, "a"), LETTERS, 5),
        "count_spare": (spare.named("count_spare"), LETTERS, 5),
        "fraction_spare": (rasp.numerical(halves).named("fraction_spare"), LETTERS, 5),
    }


def weights() -> None:
    """Compile every program, one after the other."""
    from safetensors.numpy import save_file

    OUT.mkdir(exist_ok=True)
    for name, (program, vocabulary, length) in programs().items():
        made = compiling.compile_rasp_to_model(
            program, vocab=set(vocabulary), max_seq_len=length, compiler_bos="BOS", causal=True
        )
        tensors = {
            f"{part.removeprefix('transformer/')}/{one}": np.ascontiguousarray(values, np.float32)
            for part, own in made.params.items()
            for one, values in own.items()
        }
        about = {
            "n_heads": made.model_config.num_heads,
            "n_layers": made.model_config.num_layers,
            "key_size": made.model_config.key_size,
            "directions": list(made.residual_labels),
            "tokens": {str(t): i for t, i in made.input_encoder.encoding_map.items()},
            "output": program.label,
        }
        save_file(tensors, OUT / f"{name}.safetensors", {"about": json.dumps(about)})
        print(name, made.model_config.num_layers, "layers", len(about["directions"]), "directions")


def edges() -> None:
    """Ask what matters, of every program under every ablation."""
    from discovery.runs.json_files import write_json
    from discovery.truth.compiled import EDGES, PROGRAMS, load, mattering

    found = dict[str, dict[str, list[str]]]()
    for name in PROGRAMS:
        graph = load(name)[0].graph()
        for ablation in ("resample", "mean", "zero"):
            pairs = np.argwhere(mattering(name, ablation)).tolist()
            found.setdefault(name, {})[ablation] = [graph.edge_name(*pair) for pair in pairs]
        print(name, {ablation: len(own) for ablation, own in found[name].items()})
    write_json(OUT / EDGES, found)


if __name__ == "__main__":
    {"weights": weights, "edges": edges}[sys.argv[1]]()
