"""What a metric says of many variants of a run, paying for the vocabulary only where it must.

The unembedding is the largest matrix of most models, and most of the time of a search by KL. Three
things spare it. It is gone through once for the prompts of all parts. Variants are read a few at a
time, as they are asked for. And where a metric is a function of the log-sum-exp (acdc/metrics.py),
or of the divergence from the model, that of a run near one that was read out lies in an interval
that a small part of the vocabulary gives (acdc/intervals.py).

A card is another matter: there one large product costs less than to begin a few small ones, and to
wait for an answer costs more than either. So all variants of a trial are read at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from acdc.intervals import Logits, Reference
from acdc.metrics import Bound, Readouts, of_vocabulary
from acdc.model import Model

VOCAB_BLOCK = 4096  # columns of the unembedding at a time: keeps the logits of a batch in cache
READOUT_ROWS = 256  # rows (variants x prompts) read out at a time, so a failed guess wastes little
CARD_BLOCK, CARD_ROWS = 65536, 1024  # the same on a card: a quarter of a GiB of logits
FEWEST_TOKENS = 8192  # of smaller vocabularies intervals would save little
TRIED, LONGEST = 32, 512  # tests that show whether intervals pay, and the most they rest for if not
CERTAIN = (torch.float32, torch.float64)  # in narrower types rounding is wider than what is decided


Interval = tuple[float, float]  # least and most
UNKNOWN = (-math.inf, math.inf)


class Readout:
    """A metric from the inputs of the final norm, summed over the prompts of all parts."""

    def __init__(self, model: Model, parts: Sequence[Bound]) -> None:
        self.model, self.parts = model, parts
        self.sizes = [len(bound.prompts) for bound in parts]
        self.at_once = model.device.type == "cuda"
        self.block = CARD_BLOCK if self.at_once else VOCAB_BLOCK
        rows = CARD_ROWS if self.at_once else READOUT_ROWS
        self.most = max(1, rows // sum(self.sizes))  # variants read at a time
        self.forms = [form for bound in parts if (form := bound.readouts) is not None]
        self.weights = [self._weights(form) for form in self.forms]
        self.plain = not self.forms or model.logit_cap is not None
        named = [form.log_p for form in self.forms if form.log_p is not None]
        self.log_p = torch.cat(named) if named else None  # of all parts, or of none

    def _weights(self, form: Readouts) -> tuple[Tensor, Tensor] | None:
        """The linear read-out of the normed input: direction and constant, a prompt each."""
        if form.direction is None:
            return None
        constant = form.direction.new_zeros(len(form.direction))
        if self.model.b_U is not None:
            constant = form.direction @ self.model.b_U
        return form.direction @ self.model.W_U.T, constant

    def __call__(self, inputs: Sequence[Float[Tensor, "n _ d_model"]]) -> Float64[Tensor, " n"]:
        """Metric of n variants from a part's inputs each, summed over all prompts, in float64."""
        return sum_of(self.each(inputs))

    def each(self, inputs: Sequence[Float[Tensor, "n _ d_model"]]) -> list[Float[Tensor, "n _"]]:
        """Metric of n variants, a part's prompts each: from a part's inputs each."""
        if self.plain:
            logits = (self.model.unembed(x) for x in inputs)
            return [bound.of_logits(own) for bound, own in zip(self.parts, logits, strict=True)]
        ys = self.normed(inputs)
        y = torch.cat(ys, 1)
        whole = self.forms[0].needs_vocabulary
        return self._of(ys, self._vocabulary(y) if whole else torch.zeros_like(y[..., 0]))

    def with_logits(
        self, inputs: Sequence[Float[Tensor, "n _ d_model"]]
    ) -> tuple[Float64[Tensor, " n"], list[Logits]]:
        """As a call, and each variant's logits: what intervals for others begin with."""
        ys = self.normed(inputs)
        y = torch.cat(ys, 1)
        z = self.model.logits(y)
        total = z.logsumexp(-1)
        read = total if self.log_p is None else of_vocabulary(z, self.log_p)
        return sum_of(self._of(ys, read)), [Logits(*own) for own in zip(y, z, total, strict=True)]

    def _of(self, ys: Sequence[Tensor], totals: Float[Tensor, "n prompts"]) -> list[Tensor]:
        """From normed inputs and what was read of the vocabulary."""
        split = totals.split(self.sizes, 1)
        parts = zip(self.forms, self.linear(ys), split, self.named(ys), strict=True)
        return [form.combine(*own) for form, *own in parts]

    def normed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the unembedding sees of each part."""
        return [self.model.ln_final(x) for x in inputs]

    def linear(self, ys: Sequence[Tensor]) -> list[Tensor]:
        """[n, prompts] of each part: the linear read-out, 0 where there is none."""
        parts = zip(ys, self.weights, strict=True)
        return [
            y.new_zeros(y.shape[:-1]) if own is None else (y * own[0]).sum(-1) + own[1]
            for y, own in parts
        ]

    def named(self, ys: Sequence[Tensor]) -> list[Tensor]:
        """[n, prompts, few] of each part: logits of the few tokens that its metric names."""
        parts = zip(ys, self.forms, strict=True)
        return [
            y[..., :0] if form.tokens is None else self._few(y, form.tokens) for y, form in parts
        ]

    def _few(self, y: Tensor, tokens: Tensor) -> Tensor:
        few = torch.einsum("nbd,dbc->nbc", y, self.model.W_U[:, tokens])
        return few if self.model.b_U is None else few + self.model.b_U[tokens]

    def _vocabulary(self, y: Float[Tensor, "n prompts d_model"]) -> Float[Tensor, "n prompts"]:
        """As metrics.of_vocabulary, a block of the vocabulary at a time."""
        model = self.model
        maxima, sums, gaps = list[Tensor](), list[Tensor](), list[Tensor]()
        for start in range(0, model.W_U.shape[1], self.block):
            part = slice(start, start + self.block)
            z = y @ model.W_U[:, part]
            if model.b_U is not None:
                z += model.b_U[part]
            gap = None if self.log_p is None else z - self.log_p[:, part]
            maxima.append(z.amax(-1))
            mass = z.sub_(maxima[-1][..., None]).exp_()
            sums.append(mass.sum(-1))
            gaps += [] if gap is None else [(mass * gap).sum(-1)]
        peak = torch.stack(maxima, -1)
        top = peak.amax(-1)
        scale = (peak - top[..., None]).exp()
        mass = (torch.stack(sums, -1) * scale).sum(-1)
        total = top + mass.log()
        return total if not gaps else (torch.stack(gaps, -1) * scale).sum(-1) / mass - total

    @property
    def bounded(self) -> bool:
        """Whether intervals of this metric are known, and worth it."""
        model = self.model
        if self.plain or not self.forms[0].needs_vocabulary or self.forms[0].between is None:
            return False
        return model.dtype in CERTAIN and model.W_U.shape[1] >= FEWEST_TOKENS

    def between(
        self, inputs: Sequence[Float[Tensor, "n _ d_model"]], reference: Reference
    ) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"]]:
        """Where the values of n variants lie, summed over all prompts: least and most."""
        ys = self.normed(inputs)
        ends = [end.split(self.sizes, 1) for end in reference.between(torch.cat(ys, 1))]
        least, most = [], []
        parts = zip(self.forms, self.linear(ys), *ends, self.named(ys), strict=True)
        for form, *own in parts:
            assert form.between is not None  # see `bounded`
            low, high = form.between(*own)
            least.append(low)
            most.append(high)
        return sum_of(least), sum_of(most)


def sum_of(values: Sequence[Float[Tensor, "n _"]]) -> Float64[Tensor, " n"]:
    """Over the prompts of all parts, in float64."""
    return torch.stack([own.double().sum(-1) for own in values]).sum(0)


@dataclass
class Worth:
    """Whether intervals pay, by what they decided of late; where they do not, they rest.

    To begin one anew costs about as much as to read two variants. A circuit of many strong edges
    has hardly a test that an interval decides. Each time in a row that they rest is twice as long.
    """

    tests: int = 0  # since the last verdict
    spared: int = 0  # of these, decided without reading
    rest: int = 0  # tests to come that do without
    last: int = 0  # how long they rested, if the last verdict was against them

    def learn(self, tests: int, read: int) -> None:
        """Of tests that were decided together, and the variants read for them."""
        if self.rest:
            self.rest = max(0, self.rest - tests)
            return
        self.tests += tests
        self.spared += max(0, tests - read)
        if self.tests >= TRIED:
            poor = 3 * self.spared < self.tests
            self.rest = self.last = min(max(TRIED, 2 * self.last), LONGEST) if poor else 0
            self.tests = self.spared = 0


class Reading:
    """The mean metric of a trial's variants: intervals where they are known, exact when asked.

    Variant -1 is the circuit before the trial.
    """

    def __init__(
        self, readout: Readout, finals: Sequence[Float[Tensor, "n _ d_model"]], n_prompts: int,
        before: Interval, reference: Reference | None, block: int = 0,
    ) -> None:  # fmt: skip
        """`finals` is what each part's final norm sees, of variant -1 first; `before` its value.

        Without a reference nothing else is known before it is read. `block` is how many variants
        were read at once when it was last asked for one.
        """
        self.readout, self.finals, self.reference = readout, finals, reference
        self.n_prompts, self.n = n_prompts, len(finals[0]) - 1
        self.values = dict[int, float]()  # those that were read
        self.ends = {-1: before}
        self.logits = dict[int, Logits]()  # of the last that were read
        self.block = readout.most if readout.at_once else block

    @property
    def n_read(self) -> int:
        """Variants that were read so far."""
        return len(self.values)

    def between(self, variant: int) -> Interval:
        """Least and most of a variant's value; both are it if it was read."""
        if variant in self.values:
            return self.values[variant], self.values[variant]
        if variant not in self.ends:
            if self.reference is None:
                return UNKNOWN
            part = self._part(variant, self.readout.most)
            ends = self.readout.between([x[part] for x in self.finals], self.reference)
            low, high = ((end / self.n_prompts).tolist() for end in ends)
            self.ends |= dict(enumerate(zip(low, high, strict=True), variant))
        return self.ends[variant]

    def exact(self, variant: int) -> float:
        """A variant's value. Who asks for one after the other has more and more read at once."""
        if not self._known(variant):
            self._read(variant, self._more(follows=self._known(variant - 1), least=1))
        return self.between(variant)[0]

    def both(self, variant: int) -> Interval:
        """The values of the variant before and of this one.

        Who asks again where the last answer ended has more and more read at once.
        """
        if not (self._known(variant - 1) and self._known(variant)):
            first = variant if self._known(variant - 1) else variant - 1
            self._read(first, self._more(follows=first == variant, least=2))
        return self.exact(variant - 1), self.exact(variant)

    def renew(self, variant: int) -> None:
        """Begin the intervals of later variants at this one, if it is the last that was read."""
        if self.reference is not None and variant == max(self.logits, default=None):
            run, log_p = self.logits[variant], self.readout.log_p
            self.reference = Reference.of(self.reference.split, run, log_p)
            self.ends = {k: ends for k, ends in self.ends.items() if k < variant}

    def _known(self, variant: int) -> bool:
        low, high = self.ends.get(variant, UNKNOWN)
        return variant in self.values or low == high

    def _more(self, follows: bool, least: int) -> int:
        """How many are to be read now, and remembered: twice as many if it goes on."""
        if not self.readout.at_once:
            on = follows and self.block > 0
            self.block = min(2 * self.block, self.readout.most) if on else least
        return self.block

    def _part(self, first: int, size: int) -> slice:
        """Of `finals`."""
        return slice(first + 1, min(first + 1 + size, self.n + 1))

    def _read(self, first: int, size: int) -> None:
        inputs = [x[self._part(first, size)] for x in self.finals]
        if self.reference is None:
            found = self.readout(inputs)
        else:
            found, logits = self.readout.with_logits(inputs)
            self.logits = dict(enumerate(logits, first))
        means = (found / self.n_prompts).tolist()
        self.values |= dict(enumerate(means, first))
