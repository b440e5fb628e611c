"""Interchange interventions on a subspace, and the subspace learnt (distributed alignment search).

The value h that a place has in the base's run is given the source's inside a subspace B:

    h' = h + B B^T (h_source - h),      B [width, k] orthonormal

(Geiger et al. 2021; 2024, where B is learnt so that the run then gives the answer that a high-level
model says). What is learnt can fit whatever there is to fit, so it is measured on other prompts,
beside random subspaces and one that was learnt with the sources permuted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from acdc.errors import InputError
from discovery.explanation.variables.counterfactual import Pairs
from discovery.explanation.variables.intervene import Change, Place, Runs

Basis = Float[Tensor, "width k"]
PerPair = Float64[np.ndarray, " pair"]


@dataclass(frozen=True, eq=False)
class Site:
    """A place at a mark, and the subspace of it that is interchanged; None: all of it."""

    place: Place
    mark: str
    basis: Basis | None = None

    @property
    def name(self) -> str:
        """As "a1.h2 at end"."""
        return f"{self.place.name} at {self.mark}"

    def within(self, basis: Basis | None) -> Site:
        """The same site with another subspace."""
        return Site(self.place, self.mark, basis)


def interchange(runs: Runs, site: Site, pairs: Pairs, variable: str) -> Change:
    """The site's value is the source's, within its subspace; positions are each prompt's own."""
    base, source = (
        torch.as_tensor(i, device=runs.model.device) for i in (pairs.base, pairs.sources[variable])
    )
    there, basis = runs.values(site.place, site.mark)[source], site.basis

    def to(value: Tensor, which: Tensor) -> Tensor:
        moved = there[which] - value
        return value + (moved if basis is None else moved @ basis @ basis.T)

    return Change(site.place, runs.positions(site.mark)[base], to)


@dataclass(frozen=True)
class Outcome:
    """What interchange interventions came to, pair by pair."""

    right: PerPair  # 1 where the right token is above all other candidates
    lead: PerPair  # logits: the right token less the base's own answer
    before: PerPair  # the same without the intervention; 0 where both are one token
    margin: PerPair  # logits: the right token less the best of all other candidates
    base: np.ndarray  # the pair's prompt

    @property
    def accuracy(self) -> float:
        """Interchange accuracy."""
        return float(self.right.mean())

    @property
    def share(self) -> float:
        """Of the base answer's lead, the part turned: 0 none, 0.5 a draw, 1 reversed.

        Over pairs whose label changes; nan if their lead is 0.
        """
        lost = float(self.before.sum())
        return float((self.lead - self.before).sum()) / (-2 * lost) if lost else float("nan")


def tried(runs: Runs, sites: Mapping[str, Site], pairs: Pairs) -> Outcome:
    """Interchange each variable named at its site, all at once; no site: nothing is changed.

    Values of places further up reach those further down before these are changed.
    """
    changes = [interchange(runs, site, pairs, name) for name, site in sites.items()]
    logits, own = candidate_logits(runs, changes, pairs), candidate_logits(runs, [], pairs)
    is_right = torch.as_tensor(pairs.tokens == pairs.right[:, None], device=logits.device)
    rivals = logits.masked_fill(is_right, float("-inf")).amax(1)
    right, lead, before = logits[:, 0] > rivals, logits[:, 0] - logits[:, 1], own[:, 0] - own[:, 1]
    some = (right, lead, before, logits[:, 0] - rivals)
    found = [x.detach().double().cpu().numpy() for x in some]
    return Outcome(found[0], found[1], found[2], found[3], pairs.base)


def candidate_logits(
    runs: Runs, changes: Sequence[Change], pairs: Pairs
) -> Float[Tensor, "pair candidate"]:
    """Logits of each pair's candidates, the base's run changed."""
    device = runs.model.device
    base, tokens = (torch.as_tensor(x, device=device) for x in (pairs.base, pairs.tokens))
    return runs.logits(base, changes, tokens)


# ---- learning ------------------------------------------------------------------------------------


def loss(runs: Runs, site: Site, pairs: Pairs, variable: str) -> Float[Tensor, ""]:
    """Cross-entropy (nats) after the interchange at the site; differentiable in its subspace."""
    return cross_entropy(runs, [interchange(runs, site, pairs, variable)], pairs)


def cross_entropy(runs: Runs, changes: Sequence[Change], pairs: Pairs) -> Float[Tensor, ""]:
    """Mean over pairs of that of the right token among the candidates, nats."""
    logits = candidate_logits(runs, changes, pairs)
    again = torch.as_tensor(_again(pairs.tokens), device=logits.device)
    return -logits.masked_fill(again, float("-inf")).log_softmax(-1)[:, 0].mean()


def _again(tokens: np.ndarray) -> np.ndarray:
    """[pair, candidate]: whether a candidate stood further left already."""
    equal = tokens[:, :, None] == tokens[:, None, :]
    return np.tril(equal, -1).any(2)


def random_basis(width: int, k: int, rng: np.random.Generator, like: Tensor) -> Basis:
    """Orthonormal, uniform over subspaces; InputError for a k outside 1..width."""
    if not 1 <= k <= width:
        raise InputError(f"k={k}: the place has {width} numbers, so 1 to {width} are allowed")
    q, _ = np.linalg.qr(rng.standard_normal((width, k)))
    return torch.as_tensor(q).to(like)


def first_order(runs: Runs, site: Site, pairs: Pairs, variable: str, k: int) -> Basis:
    """A start of learning: the subspace that would lower the loss most if it were linear.

    Moving h by B B^T d changes the loss by tr(B^T (d g^T) B), g its gradient, so B is the lowest k
    eigenvectors of the symmetric part of sum d g^T. A random start may be nearly orthogonal to
    what there is to find, where the gradient in B vanishes. InputError for a k outside 1..width.
    """
    width = site.place.width(runs.model)
    if not 1 <= k <= width:
        raise InputError(f"k={k}: {site.name} has {width} numbers, so 1 to {width} are allowed")
    base, there = torch.as_tensor(pairs.base), runs.values(site.place, site.mark)
    with torch.inference_mode(False), torch.enable_grad():
        shift = there.new_zeros(len(base), width).requires_grad_()
        at = runs.positions(site.mark)[base]
        change = Change(site.place, at, lambda value, which: value + shift[which])
        cross_entropy(runs, [change], pairs).backward()
    assert shift.grad is not None
    moved = (there[pairs.sources[variable]] - there[base]).double()
    slope = moved.T @ shift.grad.double()
    return torch.linalg.eigh(slope + slope.T)[1][:, :k].contiguous().to(there)


def main_directions(runs: Runs, site: Site, pairs: Pairs, variable: str, k: int) -> Basis:
    """The k directions along which sources and bases differ most: another start."""
    there = runs.values(site.place, site.mark)
    moved = (there[pairs.sources[variable]] - there[pairs.base]).double()
    most = torch.linalg.eigh(moved.T @ moved)[1]
    return most[:, -k:].contiguous().to(there)


@dataclass(frozen=True)
class Effort:
    """Of learning a subspace."""

    steps: int = 24  # of Adam
    batch: int = 32  # pairs a step
    rate: float = 0.1  # falling to 0 in a line


def learnt(
    runs: Runs, site: Site, pairs: Pairs, variable: str, k: int, effort: Effort,
    rng: np.random.Generator,
) -> Site:  # fmt: skip
    """The site with the subspace learnt from these pairs: Adam on a matrix whose Q (of QR) is B.

    It begins with half of each of two starts, of one dimension with the first. The matrix is of at
    least float32, whatever the model's numbers are.
    """
    half = k // 2
    starts = [first_order(runs, site, pairs, variable, k)[:, : k - half]]
    if half:
        starts.append(main_directions(runs, site, pairs, variable, half))
    like = starts[0]
    exact = torch.promote_types(like.dtype, torch.float32)
    start = _orthonormal(torch.cat(starts, dim=1).to(exact))
    with torch.inference_mode(False), torch.enable_grad():
        weight = start.clone().requires_grad_()
        adam = torch.optim.Adam([weight], lr=effort.rate)
        order = np.zeros(0, np.int64)
        for step in range(effort.steps):
            adam.param_groups[0]["lr"] = effort.rate * (1 - step / effort.steps)
            if len(order) < effort.batch:
                order = np.concatenate([order, rng.permutation(len(pairs.base))])
            some, order = pairs.take(order[: effort.batch]), order[effort.batch :]
            adam.zero_grad()
            loss(runs, site.within(_orthonormal(weight).to(like)), some, variable).backward()
            adam.step()
        return site.within(_orthonormal(weight).detach().to(like))


def _orthonormal(weight: Float[Tensor, "width k"]) -> Basis:
    return torch.linalg.qr(weight)[0]
