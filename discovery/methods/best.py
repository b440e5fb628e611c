"""Learnt, then exact: what needs the fewest edges by docs/pages/results.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field, FiniteFloat

from acdc.errors import InputError
from discovery.choices.fields import Count
from discovery.methods.found import Found, Resume, Step
from discovery.methods.greedy import ACDC
from discovery.methods.learned import Learned
from discovery.methods.method import Method, Work

STAGE = "stage"
Point = tuple[Mapping[str, Any], Mapping[str, Any]]


class Best(Method):
    """Masks learnt by gradient, then the exact search inside of what they rank highest.

    The search begins at `room` times the edges that the learnt ranking needs for the target, on the
    first `polish` prompts at least; the circuit with fewer edges of the two is taken. Beyond `most`
    edges the learnt circuit stands: an exact search takes an hour, and on the few prompts that it
    can afford it finds what holds less on others. It needs a target.
    """

    name: str = "best"
    works: ClassVar[Work] = "targeted"
    steps: Count = 300
    room: Annotated[FiniteFloat, Field(ge=1)] = 2.0
    polish: Count = 32
    most: Count = 500

    @property
    def sized(self) -> bool:
        """See Method.sized: a target decides."""
        return False

    @property
    def looks(self) -> int:
        """See Method.looks: of its first stage."""
        return self.learned().looks

    def learned(self, n_edges: int | None = None) -> Learned:
        """The first stage."""
        return Learned(steps=self.steps, n_edges=n_edges)

    def check_question(self, metric: Any, ablation: str) -> None:
        """See Method.check_question."""
        self.learned().check_question(metric, ablation)

    def find(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """InputError: there is no circuit without a target."""
        raise InputError(f"method={self.name}: ask for a target, it has no size of its own")
        yield  # a generator, as every method's is

    def of_size(self, counts: Mapping[str, Any]) -> Method:
        """See Method.of_size: masks learnt for the size that was found."""
        return self.learned(int(counts["n_learned"]))

    def reach(
        self, data: Any, metric: Any, seed: int, target: float, tune: Any,
        resume: Resume | None = None,
    ) -> Iterator[Step | Found]:  # fmt: skip
        """See Method.reach; can be resumed in either stage. The record says what each came to."""
        from discovery.methods.choosing import end
        from discovery.methods.searching import reach

        if resume is not None and resume.about[STAGE] == "polish":
            scores, requested = resume.tensors["scores"].numpy(), resume.about["n_learned"]
        else:
            learnt = Found(data.graph.legal, data.graph.legal * 0.0, "", True)
            stage = self.learned().reach(data, metric, seed, target, tune, _part(resume))
            for made in stage:
                if isinstance(made, Found):
                    learnt = made
                elif not made.edges:  # lines are the last stage's
                    yield _of(made, "learn", {}, {})
            scores, requested = learnt.scores, int(learnt.counts["n_edges_requested"])
            resume = None
        first, held = _chosen(self.learned(requested), data.graph, scores, seed), list[Step]()
        begin = min(data.graph.n_edges, round(self.room * requested))
        counts: dict[str, int | float] = {"n_learned": requested}
        if begin <= self.most:
            start = _chosen(self.learned(begin), data.graph, scores, seed)
            few, about = data.at_least(self.polish), dict(counts)
            for made in reach(ACDC(), few, metric, seed, target, tune, _part(resume), start):
                if not isinstance(made, Found):
                    if made.edges:
                        held.append(made)
                    else:
                        yield _of(made, "polish", about, {"scores": scores})
                    continue
                counts["n_polished"] = int(made.mask.sum())
                if made.counts["tune_share"] >= target and made.mask.sum() < first.sum():
                    yield from held
                    yield replace(made, counts={**made.counts, **counts})
                    return
        counts["tune_share"] = _share(tune, metric, first)
        for step in end(self.learned(requested), data, metric, seed, scores):
            if isinstance(step, Found):
                step = replace(step, counts={**step.counts, **counts})
            yield step


def _chosen(method: Learned, graph: Any, scores: Any, seed: int) -> Any:
    from discovery.methods.choosing import choose

    return choose(method, graph, scores, seed).circuit.mask


def _share(tune: Any, metric: Any, mask: Any) -> float:
    from acdc.share import Share

    return Share(tune, metric).of(mask)


def _part(resume: Resume | None) -> Resume | None:
    """A checkpoint as the stage itself made it."""
    if resume is None:
        return None
    own = ("n_learned", STAGE)
    about = {name: value for name, value in resume.about.items() if name not in own}
    tensors = {name: value for name, value in resume.tensors.items() if name != "scores"}
    if resume.about[STAGE] == "learn":
        tensors = dict(resume.tensors)
    return Resume(about, tensors, resume.edges)


def _of(step: Step, stage: str, about: Mapping[str, Any], tensors: Mapping[str, Any]) -> Step:
    """A step of a stage, which its checkpoints name."""
    row = {STAGE: stage, **step.row} if step.row else {}
    point = None if step.checkpoint is None else _point(step.checkpoint, stage, about, tensors)
    return replace(step, row=row, says=f"{stage}: {step.says}", checkpoint=point)


def _point(
    made: Callable[[], Point], stage: str, about: Mapping[str, Any], tensors: Mapping[str, Any]
) -> Callable[[], Point]:
    def point() -> Point:
        import torch

        own, own_tensors = made()
        more = {name: torch.tensor(value) for name, value in tensors.items()}
        return {**own, **about, STAGE: stage}, {**own_tensors, **more}

    return point
