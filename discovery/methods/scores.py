"""The shipped scores: attribution, flow, the exact effect, and noise, which all have to beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from discovery.choices.fields import Count
from discovery.methods.method import Scoring, Work

Scores = NDArray[np.float64]


class IFR(Scoring):
    """Information flow routes (Ferrando & Voita 2024): one clean pass, no metric, no contrast."""

    name: str = "ifr"
    needs_corrupt: ClassVar[bool] = False
    unit: ClassVar[str | None] = "share of the flow"
    works: ClassVar[Work] = "runs"
    rule: Literal["top_n", "greedy"] = "greedy"  # pyright: ignore[reportIncompatibleVariableOverride]
    weights: Literal["flow", "uniform"] = "flow"

    @property
    def label(self) -> str:
        """See Scoring.label."""
        return self.name + (", weights=uniform" if self.weights == "uniform" else "")

    def passes(self, graph: Any) -> float | None:
        """See Method.passes."""
        return 3.0

    def scores(self, data: Any, metric: Any, seed: int) -> Scores:
        """See Scoring.scores; never negative. The mean over the tokens of answers, then prompts."""
        prompts = data.prompts
        scores = np.zeros(data.graph.legal.shape)
        for (_, forced), rows in prompts.alike().items():
            for token in range(forced + 1):
                own = self._alike(data, prompts.take(rows).reading(token))
                scores += own * (len(rows) / (len(prompts) * (forced + 1)))
        return scores

    def _alike(self, data: Any, prompts: Any) -> Scores:
        """The mean over prompts of one length."""
        from acdc.spans import Layout
        from discovery.flow.scores import edge_flow
        from discovery.flow.uniform import uniform_shares

        layout = Layout.make(data.graph.spans, prompts)
        if self.weights == "uniform":
            return uniform_shares(data.model, data.graph, prompts.clean, layout=layout)
        right = prompts.answers if prompts.has_answers else None
        wrong = prompts.wrong if right is not None and prompts.has_wrong else None
        tokens = prompts.clean
        return edge_flow(
            data.model, data.graph, tokens, right=right, wrong=wrong, layout=layout
        ).scores


class Attribution(Scoring):
    """Effects estimated by a gradient, or by what stands in for it (acdc/backward.py)."""

    backward: Literal["exact", "gim", "relp"] = "exact"
    batch_means: Count | None = None

    @property
    def label(self) -> str:
        """See Scoring.label."""
        own = [] if self.backward == "exact" else [f"backward={self.backward}"]
        own += [] if self.batch_means is None else [f"batch_means={self.batch_means}"]
        return ", ".join([self.name, *own])

    def weighed(self, score: Callable[[Any], Scores], data: Any) -> Scores:
        """The score of the data with these rules, prompts counting alike or by their batch."""
        from acdc.attribution import batch_means
        from acdc.backward import BACKWARD

        ruled = data.with_backward(BACKWARD[self.backward])
        return batch_means(score, ruled, self.batch_means) if self.batch_means else score(ruled)


class AlongReaders(Attribution):
    """Gradients at readers, times what heads put out behind a norm of their sum, or before it."""

    post_norm: Literal["share", "ignored"] = "share"

    @property
    def label(self) -> str:
        """See Scoring.label."""
        return super().label + (", post_norm=ignored" if self.post_norm == "ignored" else "")


class EAP(AlongReaders):
    """Edge attribution patching (Syed et al. 2023): gradients at the clean run."""

    name: str = "eap"

    def check_question(self, metric: Any, ablation: str) -> None:
        """See Method.check_question."""
        from acdc.attribution import check_eap

        check_eap(metric)

    def passes(self, graph: Any) -> float | None:
        """See Method.passes."""
        return 5.0

    def scores(self, data: Any, metric: Any, seed: int) -> Scores:
        """See Scoring.scores."""
        from acdc.attribution import eap

        return self.weighed(lambda d: eap(d, metric, self.post_norm), data)


class EAPIG(AlongReaders):
    """EAP with gradients integrated along the input (Hanna et al. 2024)."""

    name: str = "eap_ig"
    steps: Count = 5

    def check_question(self, metric: Any, ablation: str) -> None:
        """See Method.check_question."""
        from acdc.attribution import check_path

        check_path(ablation)

    def passes(self, graph: Any) -> float | None:
        """See Method.passes."""
        return 3.0 * self.steps

    def scores(self, data: Any, metric: Any, seed: int) -> Scores:
        """See Scoring.scores."""
        from acdc.attribution import eap_ig

        return self.weighed(lambda d: eap_ig(d, metric, self.steps, self.post_norm), data)


class EAPIGActivations(Attribution):
    """EAP with gradients integrated along activations (EAP-IG's second variant)."""

    name: str = "eap_ig_activations"
    steps: Count = 5

    def check_question(self, metric: Any, ablation: str) -> None:
        """See Method.check_question."""
        from acdc.attribution import check_activations

        check_activations(metric, self.steps)

    def passes(self, graph: Any) -> float | None:
        """See Method.passes."""
        return 2.5 * self.steps * graph.n_layers

    def scores(self, data: Any, metric: Any, seed: int) -> Scores:
        """See Scoring.scores."""
        from acdc.attribution import eap_ig_activations

        return self.weighed(lambda d: eap_ig_activations(d, metric, self.steps), data)


class Exact(Scoring):
    """The effect of each single knock-out: what the attributions approximate."""

    name: str = "exact"
    works: ClassVar[Work] = "search"

    def scores(self, data: Any, metric: Any, seed: int) -> Scores:
        """See Scoring.scores; shows a progress bar."""
        from tqdm.auto import tqdm

        from acdc.attribution import exact

        with tqdm(
            total=data.graph.n_edges, unit="edge", leave=None, dynamic_ncols=True
        ) as bar:  # it stays unless it is within another

            def progress(done: int, total: int) -> None:
                bar.update(done - bar.n)

            return exact(data, metric, progress)


class Random(Scoring):
    """Noise by seed."""

    name: str = "random"
    needs_corrupt: ClassVar[bool] = True  # to be measured against
    asks_prompts: ClassVar[bool] = False
    unit: ClassVar[str | None] = "arbitrary units"
    works: ClassVar[Work] = "runs"
    rule: Literal["top_n", "greedy", "paths"] = "paths"

    def passes(self, graph: Any) -> float | None:
        """See Method.passes."""
        return 0.0

    def scores(self, data: Any, metric: Any, seed: int) -> Scores:
        """See Scoring.scores."""
        from acdc.attribution import random_scores

        return random_scores(data.graph, seed)
