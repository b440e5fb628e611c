"""A variable's direction added, and taken out: how the score follows the dose, and what else does.

The direction lies in the subspace that carries the variable (see variables.py beside): the
difference of the class means for a variable of two values, else the one along which prompts differ
most. What it does elsewhere is asked of text that has nothing to do with the task, and of other
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm

from acdc.data import floats
from acdc.forward import trace
from acdc.model import Model
from discovery.explanation.section import Picture, Section, Table, drawn
from discovery.explanation.subject import Subject
from discovery.explanation.variables import part as variables
from discovery.explanation.variables.alignment import Basis, Site
from discovery.explanation.variables.intervene import Change, Part, Runs, place
from discovery.heads.roles import repeated_tokens
from discovery.settings.explanation import Steering
from discovery.show.drawing import COLOURS, GREY
from discovery.statistics.intervals import mean_interval
from discovery.validation.bench import Bench, Values

SEQUENCES, TOKENS = 6, 40  # of text that has nothing to do with the task
Direction = Float[Tensor, " width"]
To = Callable[[Tensor, Tensor], Tensor]
HOW = (
    "At the place and mark that carry a variable a direction of its subspace is added to each"
    " prompt's own value, in standard deviations of the prompts along it; for a variable of two"
    " values it is the difference of the class means, turned for each prompt toward the other"
    " value, else the direction along which prompts differ most. Taken out: the coordinate along it"
    " is the mean's. Direction, deviation and mean are of the prompts to choose on, all figures of"
    " the others. Side effects: KL(unsteered || steered) in nats, per position of random tokens"
    " that come twice, steered at every position; and at the answer of the same prompts, steered at"
    " a position of theirs that is not the mark. Random: directions of the same length, taken out"
    " to the mean along themselves."
)


def check(subject: Subject, asked: Steering) -> str | None:
    """Where variables can be asked."""
    return variables.check(subject, subject.asked.variables)


# ---- directions --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Steer:
    """A direction at a site. Doses are in units of `sd`."""

    site: Site
    direction: Direction  # of length 1
    sd: float  # of the prompts' coordinates along it
    mean: Float[Tensor, " width"]  # of the prompts' values, whatever the direction
    signs: Float[Tensor, " prompt"]  # of the prompts to be steered

    def along(self, other: Direction) -> Steer:
        """With another direction and the same length and signs."""
        return Steer(self.site, other, self.sd, self.mean, self.signs)

    def add(self, dose: float, signed: bool = True) -> To:
        """What adds dose * sd along the direction; the run numbered i is steered by signs[i]."""
        step = dose * self.sd * self.direction

        def to(value: Tensor, which: Tensor) -> Tensor:
            return value + (self.signs[which][:, None] * step if signed else step)

        return to

    def remove(self, value: Tensor, which: Tensor) -> Tensor:
        """The coordinate along the direction is the mean's."""
        along = (self.mean - value) @ self.direction
        return value + along[..., None] * self.direction


def class_direction(
    values: Float[Tensor, "prompt width"], high: np.ndarray, basis: Basis | None
) -> Direction:
    """From the mean of the prompts that are not `high` to that of those that are; length 1.

    Within the subspace, if there is one: what else differs between the prompts stays out.
    """
    is_high = torch.as_tensor(high, device=values.device)
    apart = values[is_high].mean(0) - values[~is_high].mean(0)
    return _unit(apart if basis is None else basis @ (basis.T @ apart))


def main_direction(values: Float[Tensor, "prompt width"], basis: Basis | None) -> Direction:
    """The first principal direction of the values, within the subspace; length 1."""
    inside = values - values.mean(0)
    inside = inside if basis is None else inside @ basis @ basis.T
    first = torch.linalg.svd(inside.double(), full_matrices=False)[2][0]
    return _unit(first * torch.sign(first[first.abs().argmax()])).to(values)


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)


def steer(choose: Runs, test: Runs, variable: str, site: Site) -> Steer:
    """The variable's direction at a site, from the first prompts, to steer the second."""
    values = choose.values(site.place, site.mark)
    classes = np.array(choose.prompts.features[variable])
    signs = values.new_ones(len(test))
    if len(np.unique(classes)) == 2:
        direction = class_direction(values, classes == classes.max(), site.basis)
        is_high = np.array(test.prompts.features[variable]) == classes.max()
        signs[torch.as_tensor(is_high, device=values.device)] = -1.0  # toward the other value
    else:
        direction = main_direction(values, site.basis)
    along = values @ direction
    return Steer(site, direction, float(along.std()), values.mean(0), signs)


# ---- measuring ---------------------------------------------------------------------------------


def steered(bench: Bench, runs: Runs, site: Site, to: To, elsewhere: int | None = None) -> Values:
    """Values of the bench's prompts, changed at the site.

    With `elsewhere` (a seed), at another position of each prompt instead.
    """
    every = torch.arange(len(runs), device=runs.model.device)
    at = runs.positions(site.mark)
    if elsewhere is not None:
        n_pos, lengths = runs.prompts.clean.shape[1], np.array(runs.prompts.lengths)
        drawn = np.random.default_rng(elsewhere).integers(1, max(2, n_pos), len(runs))
        shift = 1 + (drawn - 1) % np.maximum(lengths - 1, 1)
        length, shift = (torch.as_tensor(x, device=at.device) for x in (lengths, shift))
        before = n_pos - length
        at = before + (at - before + shift) % length
    return changed_values(bench, runs, every, [Change(site.place, at, to)])


def changed_values(bench: Bench, runs: Runs, base: Tensor, changes: Sequence[Change]) -> Values:
    """Values of all of the bench's prompts, in order, their runs changed."""
    parts = zip(runs.each(base, changes), bench.data, strict=True)
    return bench.joined([bench.values(f, runs.model.unembed(x[:, -1])) for (_, x), f in parts])


def text(model: Model, seed: int, special: Sequence[int] = ()) -> Part:
    """Random tokens that come twice, as a clean run."""
    tokens = repeated_tokens(model.d_vocab, min(model.n_ctx, TOKENS), seed, None, special)
    tokens = tokens[:SEQUENCES].to(model.device)
    return Part(model, trace(model, tokens), range(len(tokens)))


def text_kl(part: Part, site: Site, to: To) -> np.ndarray:
    """[sequence]: KL(unsteered || steered), nats, mean over positions; steered at all of them."""
    rows = torch.arange(len(part.rows), device=part.model.device)
    x = part.changed(rows, [Change(site.place, None, to)], rows)
    log_p, log_q = (
        part.model.unembed(y).log_softmax(-1) for y in (part.run.streams[-1], x)
    )  # fmt: skip
    return floats((log_p.exp() * (log_p - log_q)).sum(-1).mean(-1))


# ---- the section -------------------------------------------------------------------------------


def explain(subject: Subject, asked: Steering, told: Mapping[str, Section]) -> Section:
    """Dose and effect of each variable's direction at its best place."""
    carried = carriers(subject, told)
    rng = subject.rng("steering")
    choose, test = Runs.of(subject.choose), Runs.of(subject.test)
    tokenizer = subject.loaded.tokenizer
    special = [] if tokenizer is None else tokenizer.all_special_ids
    words = text(subject.model, subject.seed, special)
    found = {
        name: _one(subject, test, words, steer(choose, test, name, site), asked, rng)
        for name, site in tqdm(carried.items(), unit="variable", dynamic_ncols=True, leave=False)
    }
    return Section(
        title="What its direction does", how=HOW, says=_says(found, subject.test.unit),
        tables=[Table(
            f"the score ({subject.test.unit}) by dose, in standard deviations of the prompts, and"
            " what else changes (KL, nats)",
            [_row(name, dose) for name, one in found.items() for dose in one["doses"]],
        )],
        pictures=[_curves(found, subject.test)], found=found,
    )  # fmt: skip


def carriers(subject: Subject, told: Mapping[str, Section]) -> dict[str, Site]:
    """Each variable's best site, as the part `variables` found it; asked once if not made."""
    section = told.get("variables") or subject.once(
        "variables", lambda: variables.explain(subject, subject.asked.variables, {})
    )
    like = subject.model.W_E
    return {
        name: Site(
            place(subject.graph, f["place"]), f["mark"],
            torch.tensor(f["basis"], dtype=torch.float64).T.to(like),
        )
        for name, f in section.found["variables"].items()
    }  # fmt: skip


def _one(
    subject: Subject, test: Runs, words: Part, own: Steer, asked: Steering,
    rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    bench, level = subject.test, subject.level
    random = [
        own.along(_unit(torch.as_tensor(rng.standard_normal(len(own.direction))).to(own.direction)))
        for _ in range(asked.draws)
    ]  # fmt: skip

    def by(make: Callable[[Steer, bool], To]) -> dict[str, Any]:
        """What one change comes to, along the direction and along random ones."""
        values = steered(bench, test, own.site, make(own, True))
        one = mean_interval(values.score, rng, level=1 - level)
        beside = steered(bench, test, own.site, make(own, True), elsewhere=subject.seed)
        return {
            "score": one.estimate, "low": one.low, "high": one.high,
            "accuracy": float(values.correct.mean()), "kl": float(values.kl.mean()),
            "random": float(np.mean([
                steered(bench, test, own.site, make(r, True)).score.mean() for r in random
            ])),
            "kl_elsewhere": float(beside.kl.mean()),
            "kl_text": float(text_kl(words, own.site, make(own, False)).mean()),
            "random_kl_text": float(text_kl(words, own.site, make(random[0], False)).mean()),
        }  # fmt: skip

    doses = sorted({0.0, *asked.doses})
    plain = mean_interval(bench.model.score, rng, level=1 - level)
    return {
        "place": own.site.place.name, "mark": own.site.mark, "sd": own.sd,
        "direction": own.direction.double().tolist(),
        "toward the other value": bool((own.signs < 0).any()),
        "model": plain.estimate,
        "doses": [{"dose": d, **by(lambda s, signed, d=d: s.add(d, signed))} for d in doses],
        "removed": by(lambda s, signed: s.remove),
    }  # fmt: skip


def _row(name: str, dose: Mapping[str, Any]) -> dict[str, object]:
    return {
        "variable": name, "dose": f"{dose['dose']:g}",
        "score": f"{dose['score']:.2f} [{dose['low']:.2f}, {dose['high']:.2f}]",
        "random direction": f"{dose['random']:.2f}", "accuracy": f"{dose['accuracy']:.2f}",
        "KL, other position": f"{dose['kl_elsewhere']:.3f}",
        "KL, text": f"{dose['kl_text']:.3f}", "KL, text, random": f"{dose['random_kl_text']:.3f}",
    }  # fmt: skip


def _says(found: Mapping[str, Mapping[str, Any]], unit: str) -> list[str]:
    out = list[str]()
    for name, one in found.items():
        gone, where = one["removed"], f"{one['place']} at {one['mark']}"
        out.append(
            f"{name}: with its direction at {where} taken out the score is {gone['score']:.2f}"
            f" [{gone['low']:.2f}, {gone['high']:.2f}] {unit} of the model's {one['model']:.2f};"
            f" a random direction leaves {gone['random']:.2f}."
        )
        most = max(one["doses"], key=lambda d: d["dose"])
        to = " toward the other value" if one["toward the other value"] else ""
        out.append(
            f"{name}: {most['dose']:g} standard deviations{to} make the score {most['score']:.2f}"
            f" [{most['low']:.2f}, {most['high']:.2f}] (random {most['random']:.2f}), and move"
            f" other text by {most['kl_text']:.3f} nats a token (random"
            f" {most['random_kl_text']:.3f})."
        )
    return out


def _curves(found: Mapping[str, Mapping[str, Any]], bench: Bench) -> Picture:
    """Above the score by dose, below the side effects; a column a variable."""
    figure = Figure(figsize=(1.5 + 3 * len(found), 4.6))
    axes = figure.subplots(2, len(found), squeeze=False, sharex=True)
    for column, (name, one) in enumerate(found.items()):
        doses = [d["dose"] for d in one["doses"]]

        def of(key: str, one: Mapping[str, Any] = one) -> list[float]:
            return [d[key] for d in one["doses"]]

        top, below = axes[:, column]
        top.fill_between(doses, of("low"), of("high"), color=COLOURS["query"], alpha=0.2, lw=0)
        top.plot(doses, of("score"), color=COLOURS["query"], marker="o", ms=3, label="direction")
        top.plot(doses, of("random"), color=GREY, ls="--", label="random")
        top.axhline(one["removed"]["score"], color=COLOURS["key"], ls=":", label="taken out")
        below.plot(doses, of("kl_text"), color=COLOURS["value"], marker="o", ms=3, label="text")
        below.plot(doses, of("random_kl_text"), color=GREY, ls="--", label="text, random")
        below.plot(doses, of("kl_elsewhere"), color=COLOURS["MLP"], ls="-.", label="other position")
        top.set_title(f"{name}\n{one['place']} at {one['mark']}", fontsize=10)
        below.set_xlabel("standard deviations" + " to the other value" * one[
            "toward the other value"
        ], fontsize=8)  # fmt: skip
    axes[0, 0].set_ylabel(f"score ({bench.unit})")
    axes[1, 0].set_ylabel("KL (nats)")
    for row in axes:
        row[-1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return drawn(
        figure, "Above: the score when a variable's direction is added at its place; band: interval"
        " over prompts. Below: how far what has nothing to do with it moves.",
    )  # fmt: skip
