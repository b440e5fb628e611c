"""What sizes of models take on a device: search, EAP-IG, flows; seconds in passes, and peak memory.

    python scripts/sizes.py smollm2 gpt2 1b                         # on the CPU, float32
    python scripts/sizes.py smollm2 gpt2 1b 8b --device cuda --dtype bfloat16
    python scripts/sizes.py smollm2 gpt2 --device cuda --beside cpu # the same circuits?

smollm2 does IOI, at a threshold of .05 nats; the others are shapes with random weights and tokens,
so that nothing has to be fetched: GPT-2 small's, and those of Llama-3.2-1B and Llama-3.1-8B. Each
size runs in a process of its own. A pass is a plain one of the same prompts on the same device; the
peak is the card's, or on the CPU the process's resident size. On a card all is done twice: the
second time counts, and `again` says whether both found the same, bit for bit. Writes the table as
Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from acdc.attribution import eap_ig
from acdc.bridge import LoadedModel, from_module, load_pretrained
from acdc.data import Data
from acdc.errors import InputError
from acdc.memory import GIB, SEARCHES, Shape, Work, plan
from acdc.metrics import KL
from acdc.prompts import Prompts
from acdc.search import acdc
from discovery.flow.scores import edge_flow
from discovery.job.build import repeatable_on_cards
from discovery.models.smollm2 import smollm2_folder
from discovery.runs.json_files import write_bytes, write_json
from discovery.show.tables import markdown
from discovery.tasks import ioi

LLAMAS: dict[str, dict[str, Any]] = {
    "1b": dict(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True,
    ),
    "8b": dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    ),
}  # fmt: skip
SIZES = ("smollm2", "gpt2", *LLAMAS)
THRESHOLD = 0.05  # nats, of IOI


def load(size: str, dtype: torch.dtype, device: str) -> LoadedModel:
    """A size on a device, its weights made there in its dtype."""
    if size == "smollm2":
        return load_pretrained(str(smollm2_folder()), dtype, device, "smollm2")
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        if size == "gpt2":
            module = GPT2LMHeadModel(GPT2Config())
        else:
            module = LlamaForCausalLM(LlamaConfig(max_position_embeddings=2048, **LLAMAS[size]))
    torch.set_default_dtype(torch.float32)
    return from_module(module, None, size)


def prompts_of(loaded: LoadedModel, n: int, length: int) -> Prompts:
    """IOI where there is a tokenizer, else random tokens: they cost what others do."""
    if loaded.tokenizer is not None:
        return ioi.build(loaded.tokenizer, n=n, seed=0, prepend_bos=False, corruption="abc")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, loaded.d_vocab, (2, n, length), generator=draw)
    return Prompts(ids[0], ids[1], ((1,),) * n, ((2,),) * n, length - 1)


def search(data: Data, share: float | None) -> np.ndarray:
    """The circuit at IOI's threshold, or at so much of what the empty circuit's KL is."""
    threshold = THRESHOLD
    if share is not None:
        threshold = share * data.values(KL, lambda forward: forward.corrupt.logits).mean().item()
    return deque(acdc(data, KL, threshold), maxlen=1)[0].mask


def works(share: float | None) -> dict[str, tuple[Work, Callable[[Data], np.ndarray]]]:
    """What is done, and what it gives."""
    return {
        "search": ("search", lambda data: search(data, share)),
        "EAP-IG, 5 steps": ("gradients", lambda data: eap_ig(data, KL, 5)),
        "flows": (
            "gradients",
            lambda data: edge_flow(
                data.model, data.graph, data.prompts.clean, right=data.prompts.answers
            ).scores,
        ),
    }  # fmt: skip


def rows(given: argparse.Namespace, size: str) -> Iterator[dict[str, object]]:
    """A row a kind of work."""
    dtype = getattr(torch, given.dtype)
    loaded = load(size, dtype, given.device)
    twin = None if given.beside is None else load(size, dtype, given.beside)
    share = None if size == "smollm2" else given.share
    for name, (kind, work) in works(share).items():
        found, row = one(loaded, given, kind, work)
        if twin is not None:
            row["same"] = agreement(found, one(twin, given, kind, work)[0])
        yield {"size": size, "dtype": given.dtype, "device": given.device, "work": name, **row}


def one(
    loaded: LoadedModel, given: argparse.Namespace, kind: Work, work: Callable[[Data], np.ndarray]
) -> tuple[np.ndarray, dict[str, object]]:
    """What some work gives, and what it takes: a second time, since the first is slower."""
    model, prompts = loaded.model, prompts_of(loaded, given.prompts, given.tokens)
    how = plan(Shape(model, len(prompts), prompts.clean.shape[1], True), kind)
    make = lambda: Data(  # noqa: E731
        model, model.graph(), prompts, part=how.part, hold=how.hold, batch_bytes=how.batch_bytes,
        host=how.host,
    )  # fmt: skip
    tokens = prompts.clean.to(model.device)
    pass_ = min(seconds(model.device, lambda: loaded.plain_logits(tokens)) for _ in range(4))
    card = model.device.type == "cuda"
    found = [work(make())] if card or kind not in SEARCHES else []
    reset_peak(model.device)
    took = seconds(model.device, lambda: found.append(work(make())))
    return found[-1], {
        "edges": model.graph().n_edges,
        "kept": int(found[0].sum()) if found[0].dtype == bool else "",
        "pass, ms": round(1e3 * pass_, 2), "seconds": round(took, 2),
        "passes": round(took / pass_, 1), "expected GiB": round(how.peak / GIB, 2),
        "peak GiB": round(peak(model.device) / GIB, 2),
        **({"again": np.array_equal(found[0], found[1])} if card else {}),
    }  # fmt: skip


def agreement(one: np.ndarray, other: np.ndarray) -> str:
    """Of two circuits: their Jaccard index; of scores: the largest difference, of the largest."""
    if one.dtype == bool:
        union = (one | other).sum()
        return f"Jaccard {(one & other).sum() / union if union else 1:.3f}"
    return f"off by {np.abs(one - other).max() / np.abs(other).max():.1e}"


def seconds(device: torch.device, action: Callable[[], object]) -> float:
    """Wall-clock time of one call, whatever the device has still to do."""
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def reset_peak(device: torch.device) -> None:
    """Count the largest size anew (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Bytes at most since then: on the card, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """All sizes, each in its own process; one in this, where it is the only one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sizes", nargs="+", choices=SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--beside", help="do it there too, and compare what is found")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=15)
    parser.add_argument("--share", type=float, default=1e-3, help="threshold, of the empty KL")
    parser.add_argument("--repeatable", action="store_true", help="sums in one order, as runs have")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/sizes"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.repeatable:
        repeatable_on_cards()
    if len(given.sizes) == 1:
        found = []
        try:
            for row in rows(given, given.sizes[0]):
                found.append(row)
                print(json.dumps(row), flush=True)
        except (InputError, torch.OutOfMemoryError) as error:
            print(json.dumps({"size": given.sizes[0], "work": str(error)}), flush=True)
    else:
        options = [word for word in sys.argv[1:] if word not in given.sizes]
        found = []
        for size in given.sizes:
            done = subprocess.run(
                [sys.executable, __file__, size, *options], stdout=subprocess.PIPE, text=True,
                check=True,
            )  # fmt: skip
            own = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            print(markdown(own), flush=True)
            found += own
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.out.with_suffix(".md"), markdown(found).encode())
    write_json(given.out.with_suffix(".json"), {"sizes": found})


if __name__ == "__main__":
    main()
