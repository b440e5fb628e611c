"""What a method is, and the family of those that give every edge a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from acdc.errors import InputError
from discovery.choices.fields import Count, Named
from discovery.methods.found import Found, Resume, Step

Work = Literal["search", "targeted", "gradients", "runs", "masks"]  # as in acdc/memory.py


class Method(Named):
    """Settings of one method. A subclass says what it does in `find`."""

    needs_corrupt: ClassVar[bool] = True  # whether it cuts edges, and so asks what these carry
    by_prompt: ClassVar[bool] = False  # whether its scores are means of those of single prompts
    asks_prompts: ClassVar[bool] = True  # whether other prompts could give another circuit
    works: ClassVar[Work] = "gradients"  # what takes its memory

    def check(self, field: str) -> None:
        """Raise InputError for what is wrong before any model is loaded; `field` is its name."""

    def check_question(self, metric: Any, ablation: str) -> None:
        """Raise InputError for an acdc.metrics.Metric, or an ablation by its name, of which it can
        say nothing; before any model is loaded.
        """

    @property
    def looks(self) -> int | None:
        """Prompts that it looks at, one after the other and again; None: at all together."""
        return None

    def passes(self, graph: Any) -> float | None:
        """Plain forward passes of all prompts that it takes, roughly; None: nobody knows."""
        return None

    def find(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """Propose a circuit: acdc.data.Data and acdc.metrics.Metric in, one Found at the end.

        `resume` is what one of its own Steps gave as checkpoint, if it gave any.
        """
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The name, and what changes the meaning of what it finds."""
        return self.name

    def reach(
        self, data: Any, metric: Any, seed: int, target: float, tune: Any,
        resume: Resume | None = None,
    ) -> Iterator[Step | Found]:  # fmt: skip
        """The smallest circuit it can find that recovers a share of what cutting all edges changes.

        The share is two-sided (acdc.share.Share), on other prompts, `tune`. Found.counts
        has `tune_share`; where it is below the target, no circuit was found that reaches it.
        """
        raise InputError(
            f"target={target:g}: method={self.name} has no way to a target; give it a size of its"
            " own, and target=null"
        )

    def of_size(self, counts: Mapping[str, Any]) -> Method:
        """The same method with the size that it came to (Found.counts) on its way to a target."""
        return self

    def times(self, factor: float) -> Method:
        """The same method, asked for circuits so many times larger: n_edges multiplied, else a
        threshold or budget divided. InputError if it is to have a size and has none.
        """
        self.asked_for()
        if factor == 1:
            return self
        sizes = {f: getattr(self, f, None) for f in ("n_edges", "threshold", "budget")}
        own = {f: size for f, size in sizes.items() if size is not None}
        if not own:
            raise InputError(f"times={factor:g}: method={self.name} has no size to multiply")
        changed = {
            f: max(1, round(size * factor)) if f == "n_edges" else size / factor
            for f, size in own.items()
        }
        return self.model_copy(update=changed)

    def asked_for(self) -> None:
        """InputError if it is to find a circuit, and nobody said how large."""
        if not self.sized:
            fields = [f for f in ("n_edges", "threshold", "budget") if f in type(self).model_fields]
            free = [f for f in fields if type(self).model_fields[f].annotation is not type(None)]
            raise InputError(f"method={self.name}: give {' or '.join(free)}, or ask for a target")

    @property
    def sized(self) -> bool:
        """Whether it says itself how large a circuit is to be; if not, a target must."""
        fields = [f for f in ("n_edges", "threshold", "budget") if f in type(self).model_fields]
        return not fields or any(getattr(self, field) is not None for field in fields)

    @property
    def size(self) -> str:
        """How large a circuit was asked for, as a word for names: n40, t0.05, or nothing."""
        n_edges, threshold = (getattr(self, field, None) for field in ("n_edges", "threshold"))
        if n_edges is not None:
            return f"n{n_edges}"
        return "" if threshold is None else f"t{threshold:g}"


class Scoring(Method):
    """One number an edge, and the best edges by it. A subclass says the number in `scores`."""

    by_prompt: ClassVar[bool] = True
    unit: ClassVar[str | None] = None  # of the scores; None: the metric's

    n_edges: Count | None = None
    threshold: Annotated[FiniteFloat, Field(ge=0)] | None = None
    count: Literal["asked", "on_paths"] = "asked"
    rule: Literal["top_n", "greedy", "paths"] = "top_n"
    ranking: Literal["signed", "absolute"] = "absolute"

    @model_validator(mode="after")
    def _one_size(self) -> Scoring:
        if self.n_edges is not None and self.threshold is not None:
            raise ValueError("give one of n_edges and threshold, the other null")
        if self.rule == "paths" and (self.asks_prompts or self.threshold is not None):
            raise ValueError("rule=paths is for method=random with n_edges")
        return self

    def scores(self, data: Any, metric: Any, seed: int) -> NDArray[np.float64]:
        """[writers, readers]: positive = the edge helps, 0 where there is no edge."""
        raise NotImplementedError

    def ranks(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """Steps towards the scores, and a Found that holds these and no circuit of its own.

        No step by default; what takes many says them here, and may be resumed after any.
        """
        legal, scores = data.graph.legal, self.scores(data, metric, seed)
        yield Found(mask=legal, scores=scores, score=self.label, ranks=True)

    def find(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """See Method.find: the best edges by the scores."""
        from discovery.methods.choosing import find

        yield from find(self, data, metric, seed, resume)

    def reach(
        self, data: Any, metric: Any, seed: int, target: float, tune: Any,
        resume: Resume | None = None,
    ) -> Iterator[Step | Found]:  # fmt: skip
        """See Method.reach: by size, on the path of circuits that the scores make."""
        from discovery.methods.choosing import reach

        yield from reach(self, data, metric, seed, target, tune, resume)

    def of_size(self, counts: Mapping[str, Any]) -> Method:
        """See Method.of_size: its number of edges."""
        size = counts.get("n_edges_requested")
        return self if self.sized or size is None else self.model_copy(update={"n_edges": size})


def scoring(field: str, name: str, n_edges: int = 1, steps: int = 5) -> Scoring:
    """The Scoring of that name, for a method that works with its numbers; ValueError if none is.

    `steps` are its gradients, if it asks how many.
    """
    from discovery.choices import registry

    kind = registry.load("method", registry.check("method", name))
    if not (isinstance(kind, type) and issubclass(kind, Scoring)):
        raise ValueError(f"{field}={name!r} gives no scores: take eap_ig, ifr, ...")
    asked: dict[str, Any] = {"n_edges": n_edges, "rule": "top_n"}
    if "steps" in kind.model_fields:
        asked["steps"] = steps
    return kind(**asked)
