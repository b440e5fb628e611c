"""All tests of one circuit, in the order of the report. Masks in, plain values out.

First the run's own question, cut edges carrying what its ablation says; then what the budget allows
of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from acdc.ablation import Ablation
from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.prompts import Prompts
from discovery.consensus.circuits import averages
from discovery.job.shares import carried
from discovery.scrubbing.score import effect, recovered
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.run import Settings
from discovery.statistics.against_random import null_percentile, partial_necessity, sufficiency
from discovery.statistics.decision import NEEDED, alone, needed, outside
from discovery.statistics.equivalence import effect_margin, equivalence, mean_equivalence
from discovery.statistics.independence import independence
from discovery.statistics.random_circuits import complement, random_masks
from discovery.statistics.result import TestResult
from discovery.statistics.search_worst import EXACT_UP_TO, Effort
from discovery.validation.bench import Bench, Floats, Mask, Values, two_sided
from discovery.validation.budget import Budget, Estimate, Progress
from discovery.validation.chance import likely_masks, scrubbed_scores, shape_masks
from discovery.validation.decision import (
    Decision,
    decide,
    figure,
    is_complete,
    random_alone,
    random_outside,
)
from discovery.validation.faithfulness import (
    Cell,
    faithfulness_cells,
    other_ablations,
    spread,
)
from discovery.validation.held_out import bench_of
from discovery.validation.knockouts import (
    Completeness,
    Minimality,
    circuit_nodes,
    completeness,
    minimality_tests,
)
from discovery.validation.resamples import Stability, stability
from discovery.validation.resampling import (
    HOWS,
    How,
    Scrubbed,
    resampled_baseline,
    scrub_circuit,
    scrubbed_score,
)
from discovery.validation.rungs import NONE, OWN, TWINS

FORWARDS = 3  # plain passes and scrub samples that are timed
TIMED = 8  # prompts of them
EACH_EDGE = 12  # how many runs one takes in which every edge draws for itself, roughly
ONE_EDGE = 0.3  # of a run, what one without an edge takes more, roughly
ATTRIBUTION = 6  # how many runs of a model less the circuit one backward pass takes, roughly
RANDOM, LIKELY, SHAPE = "random circuits", "likely circuits", "its shape on other heads"


@dataclass
class Tests:
    """What all circuits of one model and task share: the bench, and random circuits by size."""

    settings: FullEvaluation
    bench: Bench
    null_edges: int  # of the random circuits: at least as many as any circuit has

    def rng(self, part: int) -> np.random.Generator:
        """One stream of chance for each part, whatever the others do."""
        return np.random.default_rng([self.settings.seed, part])

    @cached_property
    def margin(self) -> float:
        """What no difference is smaller than, in the score's unit."""
        return effect_margin(self.bench.model.score, self.bench.empty.score, self.settings.margin)

    @cached_property
    def few(self) -> Bench:
        """The prompts on which circuits are compared with others."""
        return self.bench.first(self.settings.chance.prompts)

    @cached_property
    def random(self) -> list[Mask]:
        """Random circuits for all circuits alike (Shi et al.: at least as many edges)."""
        chance = self.settings.chance
        return random_masks(self.bench.graph, self.null_edges, chance.circuits, self.rng(0))

    @cached_property
    def random_kept(self) -> Floats:
        """[circuits, prompts]: their scores."""
        return self.few.scores(self.random)

    @cached_property
    def random_removed(self) -> Floats:
        """[circuits, prompts]: what the model scores without each."""
        return self.few.scores([complement(self.bench.graph, m) for m in self.random])

    @cached_property
    def random_scrubbed(self) -> Floats:
        """[circuits, prompts]: their scores, all else resampled."""
        return scrubbed_scores(self.few, self.random, self.rng(9))

    @cached_property
    def likely_kept(self) -> Floats:
        """[circuits, prompts]: scores of circuits that single effects make likely."""
        size = self.settings.chance.circuits
        return self.few.scores(likely_masks(self.few, self.null_edges, size, self.rng(10)))

    @torch.inference_mode()
    def of(
        self, circuit: Circuit, classes: Mapping[str, Sequence[str]], budget: Budget
    ) -> dict[str, Any]:
        """What of validation.json is about the circuit alone, whoever found it."""
        mask = circuit.mask
        with budget("equivalence"):
            values, rest, tests, cost = self._against_the_model(mask)
        with budget("faithfulness"):
            cells = faithfulness_cells(self.few, mask, [self.bench.data.ablation], self.rng(1))
        paired, shared, floor = self._own_rungs(mask, values, budget)
        self._rest(mask, classes, cost, estimate := Estimate())
        budget.announce(estimate)
        rungs, more, others, complete, minimal = self._rest(mask, classes, cost, budget)
        tests, cells = [*tests, *more], (*cells, *others)
        names = [test.name for test in tests]
        decision = self._decision(values, rest, names, minimal, complete)
        tests += [] if minimal is None else [minimal.edges, minimal.nodes]
        bench = self.bench
        return {
            "decision": decision.to_json(),
            "spare": [] if minimal is None else self._spare(circuit, minimal),
            "n_prompts": bench.n,
            "n_edges": circuit.n_edges,
            "null_edges": self.null_edges,
            "score": bench.score,
            "unit": bench.unit,
            "zero": bench.zero,
            "cut_edges_carry": carried(bench.data.ablation.name),
            "margin": self.margin,
            "used_prompts": {
                "faithfulness": self.few.n,
                "scrubbing": bench.first(self.settings.scrubbing.prompts).n,
            },
            "model_values": _summary(bench.model),
            "empty_values": _summary(bench.empty),
            "circuit_values": _summary(values)
            | asdict(two_sided(values, bench.model, bench.empty)),
            "faithfulness": {
                "cells": [asdict(c) for c in cells],
                "spread": {d: spread(cells, d) for d in ("sufficiency", "noising", "denoising")},
            },
            "scrubbing": [paired, shared, *rungs, floor],
            "tests": [asdict(t) for t in tests],
            "completeness": None if complete is None else asdict(complete),
            "minimality": None if minimal is None else {"partners": minimal.partners},
            "stability": None,
            "left_out": [asdict(one) for one in budget.left_out],
        }

    def _rest(
        self, mask: Mask, classes: Mapping[str, Sequence[str]], cost: _Cost,
        budget: Budget | Estimate,
    ) -> tuple[
        list[dict[str, Any]], list[TestResult], tuple[Cell, ...], Completeness | None,
        Minimality | None,
    ]:  # fmt: skip
        """What the budget allows: rungs, tests, cells, knock-outs."""
        rungs = self._other_rungs(mask, cost, budget)
        tests = self._against_chance(mask, cost, budget)
        cells = self._other_cells(mask, cost, budget)
        tests += self._against_other_features(mask, cost, budget)
        complete = self._completeness(mask, classes, cost, budget)
        return rungs, tests, cells, complete, self._minimality(mask, complete, cost, budget)

    def _decision(
        self, circuit: Values, rest: Values, done: Sequence[str], minimal: Minimality | None,
        complete: Completeness | None,
    ) -> Decision:  # fmt: skip
        """The three figures; baselines are of random circuits, where they were run."""
        model, empty, rng = self.bench.model.score, self.bench.empty.score, self.rng(12)
        few, level = (self.few.model.score, self.few.empty.score), 1 - self.settings.level
        kept = random_alone(self.random_kept, *few) if "sufficiency" in done else None
        removed = random_outside(self.random_removed, *few) if "partial necessity" in done else None
        every, by_chance = None, None
        if minimal is not None:
            effect = np.abs(model - empty)[minimal.rows]
            every = needed(minimal.changes, effect, rng, level)
            by_chance = needed(minimal.random_changes, effect, rng, level).estimate
        span = float((model - empty).mean())
        whole = None if complete is None else is_complete(complete.worst_gap, span)
        own, beside = (of(v.score, model, empty, rng, level) for of, v in
                       ((alone, circuit), (outside, rest)))  # fmt: skip
        return decide([
            figure("alone", own, {"random circuits of its size": kept}),
            figure("outside", beside, {"the model without a random circuit": removed}),
            figure("needed", every, {"edges of random paths put in": by_chance}),
        ], whole)  # fmt: skip

    def _spare(self, circuit: Circuit, minimal: Minimality) -> list[str]:
        """Edges that do not matter each for itself, least first."""
        model, empty = self.bench.model.score, self.bench.empty.score
        changes = minimal.changes.mean(-1)
        least = NEEDED * np.abs(model - empty)[minimal.rows].mean()
        names = circuit.edges
        return [names[i] for i in np.argsort(changes, kind="stable") if changes[i] < least]

    def _against_the_model(self, mask: Mask) -> tuple[Values, Values, list[TestResult], _Cost]:
        """Values of the circuit and of the model without it, tests of them, and what runs took."""
        bench, level, of = self.bench, self.settings.level, self.settings
        model, empty = bench.model.score, bench.empty.score
        kept, circuit = _timed(lambda: bench.circuit(mask))
        removed, rest = _timed(lambda: bench.circuit(complement(bench.graph, mask)))
        tests = [
            equivalence(circuit.score, model, self.margin, of.eps, level),
            mean_equivalence(circuit.score, model, empty, of.margin, level),
            independence(rest.score, model, empty, self.margin, self.rng(2), level=level),
        ]
        return circuit, rest, tests, _Cost(kept / bench.n, removed / bench.n)

    def _own_rungs(self, mask: Mask, values: Values, budget: Budget) -> list[dict[str, Any]]:
        """The run's own question on all prompts, one random prompt for all, and no edge kept."""
        bench = self.bench.first(self.settings.scrubbing.prompts)
        ablation = bench.data.ablation.name
        with budget("resampling"):
            paired = Scrubbed(_drawn(values), 0, 0.0)
            own = self._rung(self.bench, TWINS.get(ablation, ablation), (), paired, 99)
            base = Scrubbed(resampled_baseline(bench), 0, 0.0)
            floor = self._rung(bench, "shared", (), base, 98) | {"inputs": NONE}
        with budget("resampling shared"):
            return [own, self._scrubbed(bench, mask, "shared", (), 100), floor]

    def _other_rungs(
        self, mask: Mask, cost: _Cost, budget: Budget | Estimate
    ) -> list[dict[str, Any]]:
        """Each other way of resampling, and inputs that only agree on features."""
        names, rows = list(self.bench.data.prompts.features), list[dict[str, Any]]()
        agreements = (
            [[name] for name in names] if len(names) < 2 else [names, *([n] for n in names)]
        )
        rungs: list[tuple[How, Sequence[str]]] = [
            *((how, ()) for how in HOWS),
            *(("shared", agree) for agree in agreements),
        ]
        bench, draws = (
            self.bench.first(self.settings.scrubbing.prompts),
            self.settings.scrubbing.draws,
        )
        for i, (how, agree) in enumerate(rungs):
            if how == "shared" and not agree:
                continue  # of _own_rungs
            runs = draws * (EACH_EDGE if how == "per edge" else 1)
            part = f"resampling {how}" + (
                f", inputs agree on {' and '.join(agree)}" if agree else ""
            )
            if budget.affords(part, cost.kept * runs * bench.n):
                with budget(part):
                    rows.append(self._scrubbed(bench, mask, how, agree, 100 + i))
        return rows

    def _scrubbed(
        self, bench: Bench, mask: Mask, how: How, agree: Sequence[str], part: int
    ) -> dict[str, Any]:
        draws = self.settings.scrubbing.draws
        found = scrub_circuit(bench, mask, how, draws, self.rng(part), agree)
        return self._rung(bench, how, agree, found, part)

    def _rung(
        self, bench: Bench, how: str, agree: Sequence[str], found: Scrubbed, part: int
    ) -> dict[str, Any]:
        model, rng = bench.model.score, self.rng(1000 + part)
        return {
            "resampled": how,
            "inputs": " and ".join(agree) if agree else OWN,
            "n": bench.n,
            "score": float(found.score.mean()),
            "recovered": _recovered(bench, found.score, rng),
            **asdict(two_sided(found.values, bench.model, bench.empty)),
            "effect": asdict(effect(-model, -found.score)),
            "smallest_class": found.smallest_class if agree else None,
            "lonely": found.lonely if agree else None,
        }

    def _against_chance(
        self, mask: Mask, cost: _Cost, budget: Budget | Estimate
    ) -> list[TestResult]:
        """Against circuits of its size, likely ones and its own shape; the own question first."""
        chance, level, bench, margin = (
            self.settings.chance, self.settings.level, self.few, self.margin
        )  # fmt: skip
        graph, model = bench.graph, bench.model.score
        kept = bench.scores([mask])[0]
        shape = shape_masks(graph, mask, chance.misplaced, self.rng(4))
        one, many = cost.kept * bench.n, chance.circuits

        def scrubbed() -> Floats:
            return scrubbed_scores(bench, [mask], self.rng(3))[0]

        def enough(own: Floats, others: Floats) -> TestResult:
            return sufficiency(own, others, model, margin, level=level)

        def needed() -> TestResult:
            without = bench.scores([complement(graph, mask)])[0]
            return partial_necessity(
                without, self.random_removed, model, bench.empty.score, margin, level=level
            )

        trials: list[tuple[str, float, Callable[[], TestResult]]] = [
            ("sufficiency", many * one, lambda: enough(kept, self.random_kept)),
            (
                f"sufficiency among {LIKELY}",
                many * one + ATTRIBUTION * cost.removed * bench.n,
                lambda: enough(kept, self.likely_kept),
            ),
            (
                f"sufficiency among {SHAPE}",
                chance.misplaced * one,
                lambda: enough(kept, bench.scores(shape)),
            ),
            ("partial necessity", many * cost.removed * bench.n, needed),
        ]
        if not self._own_is_shared:
            trials += [
                (
                    f"resampled sufficiency among {RANDOM}",
                    many * one,
                    lambda: enough(scrubbed(), self.random_scrubbed),
                ),
                (
                    f"resampled sufficiency among {SHAPE}",
                    chance.misplaced * one,
                    lambda: enough(scrubbed(), scrubbed_scores(bench, shape, self.rng(11))),
                ),
            ]
        tests = list[TestResult]()
        for name, seconds, test in trials:
            if budget.affords(name, seconds):
                with budget(name):
                    tests.append(replace(test(), name=name))
        return tests

    @property
    def _own_is_shared(self) -> bool:
        """Whether the run itself asks what another prompt's values on all cut edges leave."""
        return self.bench.data.ablation.name == "other"

    def _other_cells(self, mask: Mask, cost: _Cost, budget: Budget | Estimate) -> tuple[Cell, ...]:
        cells: tuple[Cell, ...] = ()
        for i, ablation in enumerate(other_ablations(self.few)):
            part = f"faithfulness under {ablation.name}"
            if budget.affords(part, self.few.n * (3 * cost.kept + 4 * cost.removed)):
                with budget(part):
                    cells += faithfulness_cells(self.few, mask, [ablation], self.rng(300 + i))
        return cells

    def _against_other_features(
        self, mask: Mask, cost: _Cost, budget: Budget | Estimate
    ) -> list[TestResult]:
        """Does it matter that inputs agree on these very values? Null: the values permuted."""
        settings, bench, tests = self.settings, self.few, list[TestResult]()
        for i, name in enumerate(bench.data.prompts.features):
            part = f"inputs agree on {name}, among its permutations"
            runs = 1 + settings.scrubbing.permuted
            if not budget.affords(part, runs * bench.n * cost.kept):
                continue
            with budget(part):
                rng = self.rng(200 + i)
                own = scrubbed_score(bench, mask, rng, [name]).mean()
                null = [
                    scrubbed_score(bench.permuted(name, rng), mask, rng, [name]).mean()
                    for _ in range(settings.scrubbing.permuted)
                ]
                result = null_percentile(float(own), np.array(null), settings.level)
                tests.append(replace(result, name=part))
        return tests

    def _completeness(
        self,
        mask: Mask,
        classes: Mapping[str, Sequence[str]],
        cost: _Cost,
        budget: Budget | Estimate,
    ) -> Completeness | None:
        wanted = self.settings.completeness
        effort = Effort(wanted.random, wanted.runs, wanted.iterations, wanted.candidates)
        bench, nodes = self.bench.first(wanted.prompts), len(circuit_nodes(self.bench, mask))
        sets = (
            1 + len(classes) + wanted.random + wanted.runs * wanted.iterations * wanted.candidates
        )
        sets = 2**nodes if nodes <= EXACT_UP_TO else sets
        if not budget.affords("completeness", sets * bench.n * (cost.kept + 2 * cost.removed)):
            return None
        with budget("completeness"):
            return completeness(bench, mask, self.rng(5), classes, effort)

    def _minimality(
        self, mask: Mask, complete: Completeness | None, cost: _Cost, budget: Budget | Estimate
    ) -> Minimality | None:
        """None where it is left out, and for a circuit of no or of all edges."""
        wanted, graph = self.settings.minimality, self.bench.graph
        names = () if complete is None else complete.worst.nodes
        worst = [graph.writer_index[name] for name in names]
        partners = [[]] + ([worst] if worst else [])
        bench, edges = self.bench.first(wanted.prompts), int(mask.sum())
        if not 0 < edges < graph.n_edges:
            return None
        nodes, draws = len(circuit_nodes(bench, mask)), 3 * wanted.draws
        runs = len(partners) * (1 + ONE_EDGE * edges + nodes + draws)
        if not budget.affords("minimality", runs * bench.n * cost.kept):
            return None
        with budget("minimality"):
            return minimality_tests(
                bench, mask, self.rng(6), partners, wanted.draws, self.settings.level
            )


@dataclass
class Validator(Tests):
    """The tests, and what only a run that found the circuit can be asked."""

    loaded: LoadedModel

    @classmethod
    def on(
        cls, settings: FullEvaluation, run: Settings, loaded: LoadedModel, graph: Graph,
        prompts: Prompts, ablation: Ablation, null_edges: int,
    ) -> Validator:  # fmt: skip
        """On held-out prompts, paired as the run's ablation asks, with its graph and ablation."""
        bench = bench_of(run, loaded, graph, prompts, ablation, settings.seed, settings.chunk)
        return cls(settings, bench, null_edges, loaded)

    @torch.inference_mode()
    def validate(
        self, run: Settings, circuit: Circuit, used: Prompts,
        classes: Mapping[str, Sequence[str]], search_seconds: float, progress: Progress,
    ) -> dict[str, Any]:  # fmt: skip
        """Everything of validation.json but the run's name.

        `search_seconds` is what the run's search took, for an estimate of its repetitions.
        """
        budget = Budget(self.settings.budget, progress)
        found = self.of(circuit, classes, budget)
        stable = self._stability(run, circuit, used, search_seconds, budget)
        return found | {
            "stability": None if stable is None else asdict(stable),
            "left_out": [asdict(one) for one in budget.left_out],
            "cost": self._cost(circuit.mask),
            "seconds": budget.seconds,
        }

    def _stability(
        self, run: Settings, circuit: Circuit, used: Prompts, search_seconds: float,
        budget: Budget,
    ) -> Stability | None:  # fmt: skip
        """None where it is left out, and for noise, which asks no prompts."""
        wanted, method = self.settings.stability, run.method
        if not method.asks_prompts:
            return None
        with torch.inference_mode(False), torch.enable_grad():  # as in a run
            graph, ablation = self.bench.graph, self.bench.data.ablation
            data = Data(self.loaded.model, graph, run.ablation.pair(used, run.seed), ablation)
            means = averages(method, data)
            if wanted.searches is None and not means:
                budget.leave_out("stability", None, "stability.searches=6")
                return None
            times = 2 if means else wanted.searches or wanted.resamples
            if not budget.affords("stability", times * search_seconds):
                return None
            with budget("stability"):
                return stability(
                    method, data, run.metric.load(), run.seed, circuit.mask,
                    wanted.resamples, wanted.searches or wanted.resamples, self.rng(7),
                )  # fmt: skip

    def _cost(self, mask: Mask) -> dict[str, float]:
        """Seconds of a plain pass and of one scrub sample of a few prompts, and their ratio."""
        bench = self.bench.take(range(min(TIMED, self.bench.n)))
        data, rng = bench.data, self.rng(8)
        tokens = [data.prompts_of(i).clean for i in range(data.n_parts)]
        plain, sample = list[float](), dict[str, list[float]]()
        for _ in range(FORWARDS):
            plain.append(_seconds(lambda: [self.loaded.plain_logits(some) for some in tokens]))
            for how in HOWS:
                run = partial(scrub_circuit, bench, mask, how, 1, rng)
                sample.setdefault(how, []).append(_seconds(run))
        one = float(np.median(plain))
        ratios = {f"{how} in forwards": float(np.median(s)) / one for how, s in sample.items()}
        return {"plain forward": one, **ratios}


@dataclass(frozen=True)
class _Cost:
    """Seconds that one prompt takes in a run of the circuit, and of the model without it."""

    kept: float
    removed: float


def _recovered(bench: Bench, score: Floats, rng: np.random.Generator) -> dict[str, Any] | None:
    """Share of the way from the empty circuit to the model; None if these do not differ."""
    try:
        return asdict(recovered(-bench.model.score, -bench.empty.score, -score, bench.zero, rng))
    except InputError:
        return None


def _drawn(values: Values) -> Values:
    """[prompts, 1]: nothing is drawn."""
    return Values(values.score[:, None], values.kl[:, None], values.correct[:, None])


def _summary(values: Values) -> dict[str, float]:
    return {
        "score": float(values.score.mean()),
        "accuracy": float(values.correct.mean()),
        "kl": float(values.kl.mean()),
    }


def _timed(action: Callable[[], Values]) -> tuple[float, Values]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    out = action()
    return time.perf_counter() - start, out


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
