"""How much of a circuit's score comes from each token: its embedding patched in the circuit's run.

At one position the writer `input` is given what cut edges carry (the corrupt or other prompt's, a
mean, zero), in every edge of the circuit out of it; all else runs as the circuit does. With all
positions patched that is the circuit without its edges out of `input`: the fall is the whole.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from acdc.forward import PatchedForward
from acdc.live import Cuts, run_live
from acdc.prompts import Prompts
from discovery.statistics.result import Floats
from discovery.validation.bench import Bench, Mask

UNMARKED = "unmarked"
SCREEN = 4  # prompts on which the positions of long prompts are picked


class PatchedInput:
    """Cuts (acdc/live.py) under which `input` carries its cut value at some positions.

    Kept edges add what is written less `offset`; there both are the same, so the cut value stays.
    """

    def __init__(self, cuts: Cuts, forward: PatchedForward, at: Bool[Tensor, "batch pos"]) -> None:
        offset = cuts.offset
        assert offset is not None  # cuts of pairs have one
        own = forward.model.embed(forward.prompts.clean)
        patched = torch.where(at[..., None], own, offset.rest[0])
        self.cuts = cuts
        self.offset = replace(offset, rest=torch.cat([patched[None], offset.rest[1:]]))

    def key(self, reader: int) -> Hashable:
        """As without patching."""
        return self.cuts.key(reader)

    def base(self, reader: int, kept: Sequence[int], span: int) -> Tensor:
        """As without patching."""
        return self.cuts.base(reader, kept, span)


def patched_final(forward: PatchedForward, mask: Mask, at: Bool[Tensor, "batch pos"]) -> Tensor:
    """[batch, d_model]: what the circuit `mask` gives the final norm, these embeddings patched."""
    cuts = PatchedInput(forward.cuts, forward, at)
    return run_live(forward.model, forward.graph, forward.prompts.clean, mask, cuts)


@dataclass(frozen=True)
class PositionEffects:
    """How far the circuit's score falls, [places, prompts], in the bench's unit."""

    places: Sequence[str]
    at: Int[np.ndarray, "places prompts"]  # position of each place in each prompt
    effects: Floats
    whole: Floats  # [prompts]: with all positions patched

    def alone(self) -> Floats:
        """[prompts]: the sum of effects, a position that several places have counted once."""
        fresh = [(own != self.at[:i]).all(0) for i, own in enumerate(self.at)]
        return (self.effects * fresh).sum(0)


def position_effects(
    bench: Bench, mask: Mask, places: dict[str, Sequence[int]], quiet: bool = False
) -> PositionEffects:
    """Each place (name -> its column in each prompt) patched alone: a circuit's run a place.

    Where a prompt has not begun yet, nothing is patched.
    """
    (score,) = bench.scores([mask])
    n_pos, rows = bench.data.n_pos, {name: torch.tensor(at) for name, at in places.items()}

    def fall(at: Tensor) -> Floats:
        def final(forward: PatchedForward) -> Tensor:
            own = at[list(forward.rows), n_pos - forward.n_pos :]
            return patched_final(forward, mask, own.to(forward.model.device))

        return score - bench.scored(final)

    found = [
        fall(torch.nn.functional.one_hot(at, n_pos).bool())
        for at in tqdm(rows.values(), unit="position", disable=quiet or len(rows) < 4, leave=False)
    ]
    return PositionEffects(
        list(places), np.array(list(places.values())).reshape(len(places), bench.n),
        np.array(found).reshape(len(places), bench.n),
        fall(torch.ones(bench.n, n_pos, dtype=torch.bool)),
    )  # fmt: skip


def all_places(prompts: Prompts) -> dict[str, Sequence[int]]:
    """Every position of its own, by its number; of prompts of several lengths from the end, -1."""
    width = prompts.clean.shape[1]
    first = 0 if len(set(prompts.lengths)) == 1 else -width
    return {str(first + p): (p,) * len(prompts) for p in range(width)}


def strongest_places(bench: Bench, mask: Mask, most: int) -> list[int]:
    """Columns that move the score most on the first prompts of a bench, in order."""
    few = Bench(bench.data.take(range(min(SCREEN, bench.n))), bench.score)
    size = np.abs(position_effects(few, mask, all_places(few.data.prompts)).effects).mean(1)
    before = bench.data.n_pos - few.data.n_pos
    return sorted((before + np.argsort(-size, kind="stable")[:most]).tolist())


def by_mark(effects: Floats, prompts: Prompts) -> dict[str, Floats]:
    """[prompts] by marked name, from all positions' effects; "unmarked" is the sum of the others.

    Two names at the same places are one, "end = answer".
    """
    named: dict[tuple[int, ...], list[str]] = {}
    for name, at in prompts.marks.items():
        named.setdefault(tuple(at), []).append(name)
    columns, rest = np.arange(len(prompts)), np.ones_like(effects, dtype=bool)
    found = dict[str, Floats]()
    for at, names in named.items():
        found[" = ".join(names)] = effects[list(at), columns]
        rest[list(at), columns] = False
    return {**found, UNMARKED: (effects * rest).sum(0)}
