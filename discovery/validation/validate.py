"""All tests of one circuit, in the order of the report. Masks in, plain values out."""

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
from acdc.data import Data
from acdc.errors import InputError
from acdc.graph import Circuit
from acdc.prompts import Prompts
from discovery.evaluation_settings import FullEvaluation
from discovery.rungs import NONE, OWN, TWINS
from discovery.scrubbing.score import effect, recovered
from discovery.settings import Settings
from discovery.shares import zero_point
from discovery.statistics.against_random import null_percentile, partial_necessity, sufficiency
from discovery.statistics.equivalence import equivalence, mean_equivalence, non_equivalence
from discovery.statistics.independence import independence
from discovery.statistics.result import TestResult
from discovery.statistics.search_worst import Effort
from discovery.validation.bench import Bench, Floats, Mask, make_bench
from discovery.validation.chance import Family, misplaced_scores, random_family
from discovery.validation.faithfulness import faithfulness_matrix, spread
from discovery.validation.knockouts import Completeness, completeness, minimality_tests
from discovery.validation.resamples import averages, stability
from discovery.validation.resampling import (
    HOWS,
    How,
    Scrubbed,
    resampled_baseline,
    scrub_circuit,
)

Progress = Callable[[str], None]
FORWARDS = 3  # plain passes and scrub samples that are timed


@dataclass
class Validator:
    """What all circuits of one model and task share: the bench, and random circuits by size."""

    settings: FullEvaluation
    loaded: LoadedModel
    bench: Bench
    null_edges: int  # of the random circuits: at least as many as any circuit has

    @classmethod
    def on(
        cls, settings: FullEvaluation, run: Settings, loaded: LoadedModel, prompts: Prompts,
        ablation: Ablation, null_edges: int,
    ) -> Validator:  # fmt: skip
        """On held-out prompts, with the run's graph and ablation."""
        graph = loaded.model.graph(run.graph.kv)
        bench = make_bench(loaded.model, graph, prompts, ablation, settings.chunk)
        return cls(settings, loaded, bench, null_edges)

    def rng(self, part: int) -> np.random.Generator:
        """One stream of chance for each part, whatever the others do."""
        return np.random.default_rng([self.settings.seed, part])

    @cached_property
    def family(self) -> Family:
        """Random circuits, scored once for all circuits (Shi et al.: at least as many edges)."""
        chance = self.settings.chance
        bench = self.bench.first(chance.prompts)
        return random_family(bench, self.null_edges, chance.circuits, self.rng(0))

    @torch.inference_mode()
    def validate(
        self, run: Settings, circuit: Circuit, used: Prompts,
        classes: Mapping[str, Sequence[str]], progress: Progress,
    ) -> dict[str, Any]:  # fmt: skip
        """Everything of validation.json but the run's name. InputError for an empty circuit."""
        mask, clock = circuit.mask, _Clock(progress)
        with clock("faithfulness"):
            cells = faithfulness_matrix(
                self.bench.first(self.settings.chance.prompts), mask, self.rng(1)
            )
        with clock("equivalence"):
            tests = self._against_the_model(mask)
        with clock("resampling"):
            ladder = self._ladder(mask)
        with clock("chance"):
            tests += self._against_chance(mask)
        with clock("features permuted"):
            tests += self._against_other_features(mask)
        with clock("completeness"):
            complete = self._completeness(mask, classes)
        with clock("minimality"):
            minimal = self._minimality(mask, complete)
        with clock("stability"):
            stable = self._stability(run, circuit, used)
        return {
            "n_prompts": self.bench.n,
            "n_edges": circuit.n_edges,
            "null_edges": self.null_edges,
            "score": self.bench.score,
            "unit": self.bench.unit,
            "zero": zero_point(self.bench.data.ablation.name),
            "used_prompts": {
                "faithfulness": self.bench.first(self.settings.chance.prompts).n,
                "scrubbing": self.bench.first(self.settings.scrubbing.prompts).n,
            },
            "model_values": _summary(self.bench.model.score, self.bench.model.correct),
            "empty_values": _summary(self.bench.empty.score, self.bench.empty.correct),
            "faithfulness": {
                "cells": [asdict(c) for c in cells],
                "spread": {d: spread(cells, d) for d in ("sufficiency", "noising", "denoising")},
            },
            "scrubbing": ladder,
            "tests": [asdict(t) for t in (*tests, minimal.edges, minimal.nodes)],
            "completeness": asdict(complete),
            "minimality": {"partners": minimal.partners},
            "stability": None if stable is None else asdict(stable),
            "cost": self._cost(mask),
            "seconds": clock.seconds,
        }

    def _against_the_model(self, mask: Mask) -> list[TestResult]:
        bench, level = self.bench, self.settings.level
        circuit, model = bench.circuit(mask).score, bench.model.score
        rest = bench.circuit(bench.graph.legal & ~mask).score
        return [
            equivalence(circuit, model, level=level),
            mean_equivalence(circuit, model, level=level),
            non_equivalence(circuit, model, level=level),
            independence(rest, model, self.rng(2), level=level),
        ]

    def _ladder(self, mask: Mask) -> list[dict[str, Any]]:
        """The circuit under each way of resampling, and with inputs that only agree on features."""
        names = list(self.bench.data.prompts.features)
        agreements = (
            [[name] for name in names] if len(names) < 2 else [names, *([n] for n in names)]
        )
        rungs: list[tuple[How, Sequence[str]]] = [
            *((how, ()) for how in HOWS),
            *(("shared", agree) for agree in agreements),
        ]
        bench = self.bench.first(self.settings.scrubbing.prompts)
        ablation = bench.data.ablation.name
        paired, floor = (
            Scrubbed(score[:, None], 0, 0.0)
            for score in (bench.circuit(mask).score, resampled_baseline(bench))
        )
        rows = [self._rung(bench, TWINS.get(ablation, ablation), (), paired, 99)]
        for i, (how, agree) in enumerate(rungs):
            draws = self.settings.scrubbing.draws
            found = scrub_circuit(bench, mask, how, draws, self.rng(100 + i), agree)
            rows.append(self._rung(bench, how, agree, found, 100 + i))
        return [*rows, self._rung(bench, "shared", (), floor, 98) | {"inputs": NONE}]

    def _rung(
        self, bench: Bench, how: str, agree: Sequence[str], found: Scrubbed, part: int
    ) -> dict[str, Any]:
        model, rng = bench.model.score, self.rng(1000 + part)
        return {
            "resampled": how,
            "inputs": " and ".join(agree) if agree else OWN,
            "score": float(found.score.mean()),
            "recovered": _recovered(bench, found.score, rng),
            "effect": asdict(effect(-model, -found.score)),
            "smallest_class": found.smallest_class if agree else None,
            "lonely": found.lonely if agree else None,
        }

    def _against_chance(self, mask: Mask) -> list[TestResult]:
        chance, level = self.settings.chance, self.settings.level
        bench, family = self.bench.first(chance.prompts), self.family
        model = bench.model.score
        kept = bench.circuit(mask).score
        removed = bench.circuit(bench.graph.legal & ~mask).score
        draws = self.settings.scrubbing.draws
        own = scrub_circuit(bench, mask, "shared", draws, self.rng(3)).score.mean()
        moved = misplaced_scores(bench, mask, chance.misplaced, self.rng(4))
        return [
            sufficiency(kept, family.kept, model, level=level),
            partial_necessity(removed, family.removed, model, level=level),
            replace(
                null_percentile(float(own), family.scrubbed.mean(1), level),
                name="resampled score among random circuits",
            ),
            replace(
                null_percentile(float(own), moved, level),
                name="resampled score among the same shape on other heads",
            ),
        ]

    def _against_other_features(self, mask: Mask) -> list[TestResult]:
        """Does it matter that inputs agree on these very values? Null: the values permuted."""
        settings, bench = self.settings, self.bench.first(self.settings.chance.prompts)
        tests = []
        for i, name in enumerate(bench.data.prompts.features):
            rng = self.rng(200 + i)
            own = scrub_circuit(bench, mask, "shared", 1, rng, [name]).score.mean()
            null = [
                scrub_circuit(
                    bench.permuted(name, rng), mask, "shared", 1, rng, [name]
                ).score.mean()
                for _ in range(settings.scrubbing.permuted)
            ]
            result = null_percentile(float(own), np.array(null), settings.level)
            tests.append(replace(result, name=f"inputs agree on {name}, among its permutations"))
        return tests

    def _completeness(self, mask: Mask, classes: Mapping[str, Sequence[str]]) -> Completeness:
        wanted = self.settings.completeness
        effort = Effort(wanted.random, wanted.runs, wanted.iterations, wanted.candidates)
        bench = self.bench.first(wanted.prompts)
        return completeness(bench, mask, self.rng(5), classes, effort)

    def _minimality(self, mask: Mask, complete: Completeness) -> Any:
        wanted, index = self.settings.minimality, self.bench.graph.writer_index
        worst = [index[name] for name in complete.worst.nodes]
        partners = [[]] + ([worst] if worst else [])
        bench = self.bench.first(wanted.prompts)
        return minimality_tests(
            bench, mask, self.rng(6), partners, wanted.draws, self.settings.level
        )

    def _stability(self, run: Settings, circuit: Circuit, used: Prompts) -> Any:
        """None for a search if no searches are wanted, and for noise, which asks no prompts."""
        wanted, method = self.settings.stability, run.method
        with torch.inference_mode(False), torch.no_grad():
            graph, ablation = self.bench.graph, self.bench.data.ablation
            data = Data(self.loaded.model, graph, used, ablation)
            means = averages(method, data)
            if not method.asks_prompts or (wanted.searches is None and not means):
                return None
            return stability(
                method, data, run.metric.load(), run.seed, circuit.mask,
                wanted.resamples, wanted.searches or wanted.resamples, self.rng(7),
            )  # fmt: skip

    def _cost(self, mask: Mask) -> dict[str, float]:
        """Seconds of a plain pass and of one scrub sample of the first part, and their ratio."""
        bench = self.bench.first(1)
        tokens, rng = bench.data.prompts.clean, self.rng(8)
        plain, sample = list[float](), dict[str, list[float]]()
        for _ in range(FORWARDS):
            plain.append(_seconds(lambda: self.loaded.plain_logits(tokens)))
            for how in HOWS:
                run = partial(scrub_circuit, bench, mask, how, 1, rng)
                sample.setdefault(how, []).append(_seconds(run))
        one = float(np.median(plain))
        ratios = {f"{how} in forwards": float(np.median(s)) / one for how, s in sample.items()}
        return {"plain forward": one, **ratios}


def _recovered(bench: Bench, score: Floats, rng: np.random.Generator) -> dict[str, Any] | None:
    """Share of the way from the empty circuit to the model; None if these do not differ."""
    name = zero_point(bench.data.ablation.name)
    try:
        return asdict(recovered(-bench.model.score, -bench.empty.score, -score, name, rng))
    except InputError:
        return None


def _summary(score: Floats, correct: Floats) -> dict[str, float]:
    return {"score": float(score.mean()), "accuracy": float(correct.mean())}


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class _Clock:
    """Seconds spent in named parts; tells which one begins."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    def __call__(self, name: str) -> _Clock:
        self._progress(name)
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._name] = round(time.perf_counter() - self._start, 3)
