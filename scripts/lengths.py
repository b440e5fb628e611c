"""What prompts of several lengths cost, beside as many of one length with as many tokens in all.

    python scripts/lengths.py              # the embedded model and a random Llama; a minute or two
    python scripts/lengths.py --smollm2    # and SmolLM2, on random tokens; ten minutes more

32 prompts of 16 tokens; or 8 each of 13, 15, 17 and 19; or four each of eight lengths from 12 to
20; in parts that neighbouring lengths share, padded, and in parts of one length each. Seconds of
the processor, the median of rounds in which all take turns, as ratios to one length. Writes the
table as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from benchmark import BEGUN, begin
from transformers import LlamaConfig, LlamaForCausalLM

from acdc import attribution
from acdc.attribution import random_scores
from acdc.bridge import LoadedModel, from_bridge, from_module, load_pretrained
from acdc.data import Data
from acdc.learned import How, learn, start
from acdc.metrics import LOGIT_DIFF
from acdc.prompts import Prompts
from discovery.models.induction import load_induction
from discovery.models.smollm2 import smollm2_folder
from discovery.runs.json_files import write_bytes, write_json
from discovery.show.tables import markdown

LENGTHS = {
    "one": (16,) * 32,
    "four": (13, 15, 17, 19) * 8,
    "eight": (12, 13, 14, 15, 17, 18, 19, 20) * 4,
}
ROUNDS = 3
Work = Callable[[Data], object]


def models(smollm2: bool) -> Iterator[tuple[str, LoadedModel]]:
    """The models, smallest first."""
    yield "embedded", from_bridge(load_induction(), None, "induction")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2, vocab_size=2000, max_position_embeddings=64,
        initializer_range=0.15,
    )  # fmt: skip
    yield "random Llama, 6 layers", from_module(LlamaForCausalLM(config), None, "random Llama")
    if smollm2:
        folder = str(smollm2_folder())
        yield "SmolLM2-135M", load_pretrained(folder, torch.float32, "cpu", "smollm2")


def prompts(lengths: tuple[int, ...], d_vocab: int) -> Prompts:
    """Random tokens."""
    draw = np.random.default_rng(0)
    clean, corrupt = ([draw.integers(0, d_vocab, n).tolist() for n in lengths] for _ in range(2))
    n = len(lengths)
    return Prompts.of_rows(clean, corrupt, [(1,)] * n, [(2,)] * n)


def circuit(data: Data) -> object:
    """A circuit of a twentieth of the edges."""
    keep = np.random.default_rng(0).random(data.graph.legal.shape) < 0.05
    return data.circuits(LOGIT_DIFF, [data.graph.legal & keep])


def masks(data: Data) -> object:
    """Three steps of learnt masks, on all prompts."""
    legal, n = data.graph.legal, data.graph.n_edges
    first = start(random_scores(data.graph, 0), legal)
    how = How(smallest=n / 20, largest=n / 2, steps=3, batch=32)
    return list(learn(data, LOGIT_DIFF, legal, first, how, 0))


WORKS: dict[str, Work] = {
    "both plain runs": lambda data: [data.take(range(len(data)))[i] for i in range(data.n_parts)],
    "a circuit": circuit,
    "EAP-IG, 5 steps": lambda data: attribution.eap_ig(data, LOGIT_DIFF, 5),
    "learnt masks": masks,
    "every single cut": lambda data: attribution.exact(data, LOGIT_DIFF),
    f"a search, {BEGUN:,} edges": begin,
}
RUNS, CIRCUIT, SCORES, MASKS, CUTS, SEARCH = WORKS
TIMED = {
    "embedded": (RUNS, CIRCUIT, SCORES, MASKS, CUTS),
    "random Llama, 6 layers": (RUNS, CIRCUIT, SCORES, MASKS),
    "SmolLM2-135M": (RUNS, CIRCUIT, SCORES, SEARCH),
}


def seconds(work: Work, data: Data) -> float:
    """Of the processor, for one call."""
    begin = time.process_time()
    work(data)
    return time.process_time() - begin


def row(name: str, loaded: LoadedModel, what: str) -> dict[str, str | float]:
    """One line: seconds of one length, and the others as ratios to it."""
    sets = {
        f"{key} {how}": Data(
            loaded.model, loaded.model.graph(), prompts(lengths, loaded.d_vocab),
            padded=how == "lengths",
        )
        for key, lengths in LENGTHS.items()
        for how in (["length"] if key == "one" else ["lengths", "apart"])
    }  # fmt: skip
    for data in sets.values():
        seconds(WORKS[what], data)  # the first is slower; not counted
    rounds = [{k: seconds(WORKS[what], data) for k, data in sets.items()} for _ in range(ROUNDS)]
    base, *others = sets
    ratios = {
        key: round(statistics.median(one[key] / one[base] for one in rounds), 2) for key in others
    }
    one = statistics.median(found[base] for found in rounds)
    return {"model": name, "work": what, f"{base}, s": round(one, 4), **ratios}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M too")
    parser.add_argument("--out", type=Path, default=Path("runs/lengths"), help="folder")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = list[dict[str, str | float]]()
    for name, loaded in models(asked.smollm2):
        for what in TIMED[name]:
            rows.append(row(name, loaded, what))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(asked.out / "lengths.json", {"rows": rows})
    write_bytes(asked.out / "lengths.md", markdown(rows).encode())
    print(markdown(rows))


if __name__ == "__main__":
    main()
