"""Learnt, learnt again, then exact: what needs the fewest edges by docs/pages/results.md."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field, FiniteFloat

from acdc.errors import InputError
from discovery.choices.fields import Count, Least
from discovery.methods.found import Found, Resume, Step
from discovery.methods.greedy import ACDC
from discovery.methods.learned import Learned
from discovery.methods.method import Method, Work

STAGE = "stage"
# In the second stage budgets lie around half the size that was needed, up to so many times less and
# more, and so many times that size take part.
AROUND, WITHIN = 2, 8
COUNTS, SCORES = ("n_learned", "n_again"), "so_far"  # of the stages before, in a checkpoint
Point = tuple[Mapping[str, Any], Mapping[str, Any]]
Counts = Mapping[str, int | float]


class Best(Method):
    """Masks learnt by gradient, learnt again around the size that the target needs, then exact.

    The second time budgets are a quarter of that size to all of it, and only the best edges of the
    first time take part. The search begins at `room` times the edges that the ranking then needs,
    on the first `polish` prompts at least. Of what the stages come to the circuit with the fewest
    edges is taken. Beyond `most` edges nothing is searched: it takes an hour, and on the few
    prompts that it can afford it finds what holds less on others. It needs a target.
    """

    name: str = "best"
    works: ClassVar[Work] = "targeted"
    steps: Count = 300
    again: Least = 300
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

    def around(self, n_edges: int, graph: Any) -> Learned:
        """The second stage, where so many edges were needed."""
        middle, within = max(1, n_edges // 2), min(graph.n_edges, WITHIN * n_edges)
        return Learned(steps=self.again, n_edges=middle, spread=AROUND, within=within)

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
        return self.learned(_needed(counts))

    def reach(
        self, data: Any, metric: Any, seed: int, target: float, tune: Any,
        resume: Resume | None = None,
    ) -> Iterator[Step | Found]:  # fmt: skip
        """See Method.reach; can be resumed in any stage. The record says what each came to."""
        from discovery.methods.choosing import end, fewest
        from discovery.methods.searching import reach

        asked, graph = (data, metric, seed, target, tune), data.graph
        stage, counts, scores = _so_far(resume)
        if stage == "learn":
            steps = self.learned().reach(*asked, _part(resume))
            found, _ = yield from _made("learn", steps, counts, scores)
            stage, scores, resume = "again", found.scores, None
            counts["n_learned"] = int(found.counts["n_edges_requested"])
        if stage == "again" and self.again:
            around = self.around(_needed(counts), graph)
            # by another seed, so other minibatches than the first time
            steps = around.ranks(data, metric, seed + 1, _part(resume), scores)
            steps = (_after(self.steps, made) for made in fewest(around, steps, *asked))
            found, _ = yield from _made("again", steps, counts, scores)
            own, resume = int(found.counts["n_edges_requested"]), None
            if own < counts["n_learned"] and found.counts["tune_share"] >= target:
                scores = found.scores
                counts["n_again"] = own
        chosen, begin = _needed(counts), round(self.room * _needed(counts))
        first = _chosen(self.learned(chosen), graph, scores, seed)
        if begin <= self.most:
            start = _chosen(self.learned(min(begin, graph.n_edges)), graph, scores, seed)
            few = data.at_least(self.polish)
            steps = reach(ACDC(), few, metric, seed, target, tune, _part(resume), start)
            found, lines = yield from _made("polish", steps, counts, scores)
            counts["n_polished"] = int(found.mask.sum())
            if found.counts["tune_share"] >= target and found.mask.sum() < first.sum():
                yield from lines
                yield replace(found, counts={**found.counts, **counts})
                return
        counts["tune_share"] = _share(tune, metric, first)
        for step in end(self.learned(chosen), data, metric, seed, scores):
            if isinstance(step, Found):
                step = replace(step, counts={**step.counts, **counts})
            yield step


def _needed(counts: Mapping[str, Any]) -> int:
    """The edges that the learnt ranking needs for the target, of either time."""
    return int(counts.get("n_again", counts["n_learned"]))


def _so_far(resume: Resume | None) -> tuple[str, dict[str, int | float], Any]:
    """The stage to go on in, and what those before it came to: counts, and scores."""
    if resume is None:
        return "learn", {}, None
    counts = {name: resume.about[name] for name in COUNTS if name in resume.about}
    scores = resume.tensors.get(SCORES)
    return resume.about[STAGE], counts, None if scores is None else scores.numpy()


def _made(
    stage: str, steps: Iterable[Step | Found], counts: Counts, scores: Any
) -> Generator[Step, None, tuple[Found, list[Step]]]:
    """Yields a stage's steps as such; returns what it found, and its lines, the last stage's alone
    being the run's. Checkpoints have what the stages before it came to.
    """
    lines, about = list[Step](), dict(counts)
    for made in steps:
        if isinstance(made, Found):
            return made, lines
        if made.edges:
            lines.append(made)
        else:
            yield _of(made, stage, about, {} if scores is None else {SCORES: scores})
    raise TypeError(f"{stage} ends without a circuit")


def _after(steps: int, made: Step | Found) -> Step | Found:
    """A step of learning, counted on from those of the first time."""
    if isinstance(made, Found) or "step" not in made.row:
        return made
    return replace(made, row={**made.row, "step": made.row["step"] + steps})


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
    about = {name: value for name, value in resume.about.items() if name not in (STAGE, *COUNTS)}
    tensors = {name: value for name, value in resume.tensors.items() if name != SCORES}
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
