"""Train a small sparse autoencoder of one node of a run's model, in SAELens' layout.

The node's outputs on the run's own prompts, on their corrupt ones, and on text of the model's own
(each next token drawn as the model says) or of a file are split into features of which `active` are
active at a time (top-k). `circuits explain run=FOLDER features.sae=OUT` takes it; the prompts that
an explanation is made on are never among those of the run.

    python scripts/train_sae.py runs/... --node a1.h3 --out saes/a1.h3
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from command import refusals_as_exit

from acdc.bridge import LoadedModel
from acdc.errors import InputError
from acdc.forward import trace
from discovery.explanation.features.sae import train_sae, variance_explained, write_sae
from discovery.explanation.features.sites import Site, sampled_text, site_of_node
from discovery.job.build import build_prompts
from discovery.job.prepare import load
from discovery.tasks.tokens import known_bos
from discovery.validation.runs import read_found

PART = 32  # rows of tokens run together


def file_tokens(loaded: LoadedModel, path: Path, length: int) -> torch.Tensor:
    """[row, length] of a text file; what is left over at the end is left out."""
    if loaded.tokenizer is None:
        raise InputError(f"--text {path}: the model has no tokenizer; leave it away")
    ids = loaded.tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    rows = len(ids) // length
    if not rows:
        raise InputError(f"--text {path}: {len(ids)} tokens; a row has {length}")
    return torch.tensor(ids[: rows * length]).view(rows, length)


def outputs(loaded: LoadedModel, site: Site, tokens: torch.Tensor) -> torch.Tensor:
    """[n, width]: the site's outputs at all positions."""
    parts = tokens.to(loaded.model.device).split(PART)
    runs = [site.read(trace(loaded.model, part, lean=True).writers) for part in parts]
    return torch.cat(runs).flatten(0, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder of scripts/discover.py")
    parser.add_argument("--node", required=True, help="a head a1.h3 or an MLP m2")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--text", type=Path, help="a text file; default: the model's own text")
    parser.add_argument("--rows", type=int, default=256, help="rows of the model's own text")
    parser.add_argument("--length", type=int, default=32, help="tokens of a row")
    parser.add_argument("--features", type=int, default=512, help="size of the dictionary")
    parser.add_argument("--active", type=int, default=8, help="features active at a time")
    parser.add_argument("--steps", type=int, default=4000, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="of text, start weights and batches")
    given = parser.parse_args()
    with refusals_as_exit(), torch.no_grad():
        (one,) = read_found([given.run])
        loaded = load(one.settings)
        model = loaded.model
        site = site_of_node(model, model.graph(one.settings.graph.kv), given.node)
        prompts, length = build_prompts(one.settings, loaded), min(given.length, model.n_ctx)
        if given.text is None:
            bos = known_bos(loaded.tokenizer, model.d_vocab)
            text = sampled_text(model, given.rows, length, given.seed, bos)
        else:
            text = file_tokens(loaded, given.text, length)
        x = torch.cat([outputs(loaded, site, t) for t in (prompts.clean, prompts.corrupt, text)])
        began = time.monotonic()
        sae = train_sae(
            x, site.hook, site.head, n_features=given.features, active=given.active,
            steps=given.steps, seed=given.seed,
        )  # fmt: skip
        write_sae(sae, given.out, model_name=model.name)
        features = sae.encode(x)
        left = variance_explained(x, x - sae.decode(features))
        print(f"{len(x)} outputs of {given.node}, {time.monotonic() - began:.0f} s")
        print(f"{left:.1%} of their variance explained, of these texts alone")
        print(f"{int((features > 0).any(0).sum())} of {given.features} features ever active")
        print(f"written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
