"""A site's output on some prompts, taken apart by a sparse autoencoder.

    x = sum of f_i d_i + bias + error          exact, whatever the SAE is worth

Changes are made at the clean run's site and the rest of the model is run, exactly; the SAE is not
run again. `slope` is the gradient that attributions are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from acdc.ablation import RESAMPLE
from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import PatchedForward
from acdc.prompts import Prompts
from discovery.explanation.features.sae import SAE
from discovery.explanation.features.sites import Score, Site, run_from, stream_gradients
from discovery.validation.bench import Bench


@dataclass(frozen=True, eq=False)
class Parts:
    """x = features @ W_dec + b_dec + error."""

    x: Float[Tensor, "batch pos width"]
    features: Float[Tensor, "batch pos feature"]
    error: Float[Tensor, "batch pos width"]

    @staticmethod
    def of(x: Float[Tensor, "batch pos width"], sae: SAE) -> Parts:
        """Taken apart by the SAE."""
        features = sae.encode(x)
        return Parts(x, features, x - sae.decode(features))


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a bench: its prompts' own outputs, and those on their corrupt ones."""

    forward: PatchedForward
    score: Score  # higher = the model does the task better
    site: Site
    sae: SAE
    places: Float[Tensor, "batch pos 1"]  # 1 where changes are made

    @cached_property
    def own(self) -> Parts:
        """Of the prompts themselves."""
        return Parts.of(self.site.read(self.forward.clean.writers), self.sae)

    @cached_property
    def other(self) -> Parts:
        """Of the other prompts; see `with_others`."""
        return Parts.of(self.site.read(self.forward.corrupt.writers), self.sae)

    @cached_property
    def slope(self) -> Float[Tensor, "batch pos width"]:
        """d score / d the site's output at the clean run, 0 off `places`: one pass and back."""
        gradient = stream_gradients(self.forward, self.score, self.site.stream)[0]
        return self.site.from_stream(gradient) * self.places

    @cached_property
    def attributions(self) -> Float[Tensor, "batch pos feature"]:
        """First-order fall of the score where each feature is the other prompt's."""
        return (self.own.features - self.other.features) * (self.slope @ self.sae.W_dec.T)

    def lost(self, change: Float[Tensor, "batch pos width"]) -> Float[Tensor, " batch"]:
        """How far the score falls with this added to the site's output at `places`."""
        stream, forward = self.site.stream, self.forward
        added = self.site.into_stream(change * self.places)
        logits = run_from(forward, stream, forward.clean.streams[stream] + added)
        return self.score(forward, forward.clean.logits) - self.score(forward, logits)

    # ---- changes [batch, pos, width] -----------------------------------------------------------

    def resampled(self, keep: Float[Tensor, "*batch feature"] | None = None) -> Tensor:
        """Everything of the site from the other prompt, but for the features that are 1."""
        change = self.other.x - self.own.x
        if keep is None:
            return change
        keep = keep[:, None] if keep.ndim > 1 else keep
        return change + ((self.own.features - self.other.features) * keep) @ self.sae.W_dec

    def other_error(self) -> Tensor:
        """The error from the other prompt, all features kept."""
        return self.other.error - self.own.error

    def other_features(self) -> Tensor:
        """All features from the other prompt, the error kept."""
        return self.resampled() - self.other_error()

    def to_zero(self, feature: int) -> Tensor:
        """One feature to zero."""
        return -self.own.features[..., [feature]] * self.sae.W_dec[feature]

    def to_other(self, feature: int) -> Tensor:
        """One feature to its value on the other prompt."""
        change = self.other.features[..., [feature]] - self.own.features[..., [feature]]
        return change * self.sae.W_dec[feature]


def splits(bench: Bench, site: Site, sae: SAE, at: str = "all") -> list[Split]:
    """The split of each part of a bench's prompts."""
    data = with_others(bench).data
    return [Split(f, bench.score_of, site, sae, places_of(f, at)) for f in data]


def with_others(bench: Bench) -> Bench:
    """Where there are no corrupt prompts, the same with the one before in their place."""
    data = bench.data
    if data.prompts.has_corrupt:
        return bench
    prompts = replace(data.prompts, corrupt=data.prompts.clean.roll(1, 0))
    other = Data(data.model, data.graph, prompts, RESAMPLE, data.part, data.hold)
    return Bench(other, bench.score)


def places_of(forward: PatchedForward, at: str) -> Float[Tensor, "batch pos 1"]:
    """1 at all positions, at the answer, or at a mark of each prompt; InputError for no mark."""
    prompts, like = forward.prompts, forward.clean.streams
    out = like.new_zeros(len(prompts), forward.n_pos, 1)
    if at == "all":
        return out + 1
    if at != "answer" and at not in prompts.marks:
        known = ", ".join(["all", "answer", *prompts.marks])
        raise InputError(f"features.at={at}: allowed are {known}")
    out[torch.arange(len(prompts)), position_of(prompts, at)] = 1
    return out


def position_of(prompts: Prompts, name: str) -> list[int]:
    """Where a mark is in each prompt; "answer" is the answer position."""
    end = (prompts.answer_position,) * len(prompts)
    return list(end if name == "answer" else prompts.marks[name])


def marked(some: Sequence[Prompts]) -> list[str]:
    """Names of the marks and the answer; a mark that is at the answer in all of these is it."""
    names = [n for n in some[0].marks if any(min(p.marks[n]) < p.answer_position for p in some)]
    return [*(name for name in names if name != "answer"), "answer"]


def joined(parts: Sequence[Split], read: str) -> Tensor:
    """[n, width]: `x`, `features` or `error` of all prompts and positions."""
    return torch.cat([getattr(split.own, read).flatten(0, 1) for split in parts])
