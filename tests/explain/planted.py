"""Subjects of explanations: a tiny model, a circuit of random edges, prompts in two halves."""

from dataclasses import replace

import families
import numpy as np
import torch

from acdc.ablation import ABLATIONS
from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.prompts import Prompts
from discovery.explanation.subject import Subject
from discovery.validation.bench import make_bench


def bench(model, prompts, ablation="resample", chunk=5):
    """A bench in parts of a few prompts."""
    return make_bench(model, model.graph(), prompts, ABLATIONS[ablation], chunk)


def prompts(n=12, seed=0, **changed):
    """Random prompts with marks whose places differ from prompt to prompt."""
    some = families.prompts(n, seed=seed)
    rng = np.random.default_rng(seed)
    marks = {
        "a": tuple(rng.integers(0, 3, n).tolist()),
        "b": tuple(rng.integers(3, 5, n).tolist()),
        "end": (5,) * n,
    }
    return replace(some, marks=marks, **changed)


def mask(graph, seed=0, share=0.5):
    """Random legal edges."""
    return graph.legal & (np.random.default_rng(seed).random(graph.legal.shape) < share)


def subject(model, choose: Prompts, test: Prompts, kept=None, ablation="resample", seed=1):
    """What a part is given; the bridge is not there, since no part may need it."""
    graph = model.graph()
    kept = mask(graph) if kept is None else kept
    circuit = Circuit(graph, kept, np.where(kept, 1.0, 0.0))
    loaded = LoadedModel.__new__(LoadedModel)
    for name, value in (("model", model), ("tokenizer", None), ("bridge", None)):
        object.__setattr__(loaded, name, value)
    benches = (bench(model, some, ablation) for some in (choose, test))
    return Subject(circuit, loaded, *benches, {}, seed, 0.05)


def tokens(*rows):
    """[batch, pos]."""
    return torch.tensor(rows)
