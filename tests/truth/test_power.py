"""Validation on circuits that are known: what is drawn, and that true and false are told apart."""

from dataclasses import replace

import numpy as np
import pytest

from acdc.errors import InputError
from discovery.settings.evaluation import FullEvaluation
from discovery.truth import power
from discovery.truth.case import SEARCHED
from discovery.truth.constructed import cases

LITTLE = FullEvaluation.model_validate({
    "prompts": 80, "chunk": 40, "chance": {"circuits": 29, "misplaced": 29, "prompts": 20},
    "scrubbing": {"prompts": 20, "draws": 2},
    "completeness": {"prompts": 20, "random": 2, "runs": 1, "iterations": 1, "candidates": 2},
    "minimality": {"prompts": 20, "draws": 20},
})  # fmt: skip


@pytest.fixture(scope="module")
def case():
    return next(c for c in cases(1) if (c.name, c.ablation) == ("lookup", "resample"))


def test_what_is_searched_on_is_not_validated_on(case):
    assert len(case.searched) == SEARCHED
    both = [*case.searched.rows(), *case.held_out.rows()]
    assert both == case.prompts.rows()


def test_false_circuits_are_what_they_are_called(case):
    for seed in range(20):
        drawn = power.circuits(case, np.random.default_rng(seed))
        assert list(drawn) == [power.TRUE, *power.FALSE]
        true, less, moved, random, swapped = drawn.values()
        n = true.sum()
        assert (true == case.edges).all() and not (less & ~true).any() and less.sum() == n - 1
        assert (moved & true).sum() == n - 1 and moved.sum() == random.sum() == swapped.sum() == n
        assert (random != true).any() and (swapped != true).any()
        assert all(not (mask & ~case.graph.legal).any() for mask in drawn.values())


@pytest.mark.slow
def test_the_truth_is_accepted_and_nothing_else(case):
    found = list(power.tested("constructed", case, LITTLE, 0))
    assert [one.circuit for one in found if one.accepted] == [power.TRUE]
    table = {row["test"]: row for row in power.rows(found)}
    assert table["verdict"]["true: holds"] == table["verdict"]["all false: fails"] == "100%"
    assert table["mean equivalence"]["true: fails"] == "0%"
    assert table["mean equivalence"]["random: fails"] == "100%"
    words = {one.circuit: one.words for one in found}
    assert words[power.TRUE]["alone"] == "yes" and words[power.TRUE]["verdict"] == "holds"
    assert all(words[kind]["verdict"] != "holds" for kind in power.FALSE)
    of = {(row["question"], row["circuit"]): row for row in power.word_rows(found)}
    assert of["verdict", power.TRUE]["holds"] == "100%" and of["alone", "random"]["n"] == 1
    assert "| verdict | true | 1 | 100% |" in power.words_table(found)


def test_shares_of_the_table():
    def one(circuit, holds):
        return power.Tested("s", "c", "zero", 0, circuit, {"t": holds}, holds is not False, {})

    found = [one("true", True), one("true", None), one("random", False), one("random", True),
             one("an edge less", False)]  # fmt: skip
    row, verdict = power.rows(found)
    assert (row["true: holds"], row["true: fails"], row["random: fails"]) == ("50%", "0%", "50%")
    assert row["roles swapped: fails"] == "" and row["all false: fails"] == "67%"
    assert verdict["true: holds"] == "100%" and verdict["all false: fails"] == "67%"


def test_too_few_prompts_are_one_sentence(case):
    few = replace(case, prompts=case.prompts.take(range(SEARCHED + 10)))
    with pytest.raises(InputError, match="holds out 10 prompts; 76 are needed"):
        list(power.tested("constructed", few, LITTLE, 0))
