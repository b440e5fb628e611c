"""MIB's tasks as its own code reads them (Mueller et al. 2025, arXiv:2504.13151).

A row becomes token ids: BOS (the end-of-text token where a tokenizer has none) and the prompt, its
counterfactual likewise, and the first token of the right and of the wrong answer. Rows that their
filters drop are dropped, and told; so are pairs of unlike length, which their code reads at the
wrong position without a word. The order is the data set's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError
from discovery.tasks.hf_dataset import loaded
from discovery.tasks.jsonl import collect
from discovery.tasks.tokens import encode

Row = Mapping[str, Any]
Pair = tuple[str, str, str, str]  # clean, corrupt, right, wrong
LENGTH = "clean and corrupt differ in tokens"
LABELS = "answers differ in tokens"


class Dropped(Exception):
    """A row that MIB leaves out; its text says why."""


@dataclass(frozen=True)
class Spec:
    """Where a task's rows are, and what a row says."""

    path: str  # on the hub
    pair: Callable[[Row, Callable[[str], int]], Pair]  # of a row and a count of tokens
    subset: str | None = None
    revision: str | None = None  # where a commit is known


def _ioi(row: Row, count: Callable[[str], int]) -> Pair:
    about = row["metadata"]
    right, wrong, other = (f" {about[name]}" for name in ("indirect_object", "subject", "random_c"))
    if len({count(right), count(wrong), count(other)}) > 1:
        raise Dropped("names differ in tokens")
    return row["prompt"], row["s2_io_flip_counterfactual"]["prompt"], right, wrong


def _choice(row: Row, count: Callable[[str], int]) -> Pair:
    other = row["symbol_counterfactual"]
    right, wrong = (str(r["choices"]["label"][int(r["answerKey"])]) for r in (row, other))
    if count(right) != count(wrong):
        raise Dropped(LABELS)
    return row["prompt"], other["prompt"], right, wrong


def _arithmetic(operator: str) -> Callable[[Row, Callable[[str], int]], Pair]:
    def pair(row: Row, count: Callable[[str], int]) -> Pair:
        other = row["random_counterfactual"]
        if row["operator"] != operator:
            raise Dropped("another operator")
        if other is None or other["prompt"] is None:
            raise Dropped("no counterfactual")
        right, wrong = str(row["label"]), str(other["label"])
        if (count(right), count(wrong)) != (1, 1):
            raise Dropped("an answer of several tokens")
        return row["prompt"], other["prompt"], right, wrong

    return pair


SPECS = {
    "mib_ioi": Spec("mib-bench/ioi", _ioi, revision="e5f3468f3af4c0883be35cd3bced8c711c95d286"),
    "mib_mcqa": Spec(
        "mib-bench/copycolors_mcqa", _choice, "4_answer_choices",
        "682676b0e80d3a80e847a21810157710c1f23e27",
    ),
    "mib_arc_easy": Spec(
        "mib-bench/arc_easy", _choice, revision="be6999b975e8348387cc9a21f3c8b6be8021e7d6"
    ),
    "mib_arc_challenge": Spec("mib-bench/arc_challenge", _choice),
    "mib_arithmetic_addition": Spec(
        "mib-bench/arithmetic_addition", _arithmetic("+"),
        revision="d56d68b7b1d8f9c7e9a262ec1f89331ed52c7516",
    ),
    "mib_arithmetic_subtraction": Spec("mib-bench/arithmetic_subtraction", _arithmetic("-")),
}  # fmt: skip


@dataclass(frozen=True)
class Items:
    """Rows that are lines of ids by now, as a source of prompts; see tasks/pairs.py."""

    name: str
    items: tuple[tuple[int, dict[str, object]], ...]  # with their numbers among the rows, from 0
    dropped: Mapping[str, int]  # why -> rows

    def where(self, number: int) -> str:
        """A row, as messages begin."""
        return f"{self.name}, row {number}"

    def read(self, make: Callable[[int, dict[str, object]], Any]) -> list[Any]:
        """What `make` makes of each; InputError naming all that it refuses, or if none is left."""
        if not self.items:
            why = ", ".join(f"{n} for {reason}" for reason, n in self.dropped.items())
            raise InputError(f"{self.name}: no row is left ({why or 'there are none'})")
        return collect(lambda number=number, item=item: make(number, item)
                       for number, item in self.items)  # fmt: skip


def items_of(
    task: str, path: str | None, rows: str, tokenizer: PreTrainedTokenizerBase | None
) -> Items:
    """The rows of a split as lines of ids, in order, and why others were dropped.

    `path` is a local copy of the data set, of the same columns; None: the hub's. InputError for a
    model without a tokenizer, a data set that cannot be read, or columns that are not there.
    """
    if tokenizer is None:
        raise InputError(f"task={task} is text, but this model has no tokenizer")
    spec = SPECS[task]
    name = f"{path or spec.path} ({rows})"
    revision = spec.revision if path is None else None
    found, dropped = list[tuple[int, dict[str, object]]](), Counter[str]()
    for number, row in enumerate(loaded(path or spec.path, spec.subset, rows, revision)):
        try:
            found.append((number, _item(spec, row, tokenizer)))
        except Dropped as reason:
            dropped[str(reason)] += 1
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(
                f"{name}, row {number}: not a row of {task} ({type(error).__name__}: {error});"
                f" columns: {', '.join(row)}"
            ) from error
    return Items(name, tuple(found), dict(dropped))


def _item(spec: Spec, row: Row, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    clean, corrupt, right, wrong = spec.pair(row, lambda text: len(encode(tokenizer, text)))
    ids = [_with_start(tokenizer, encode(tokenizer, text)) for text in (clean, corrupt)]
    first = [encode(tokenizer, text)[0] for text in (right, wrong)]
    if len(ids[0]) != len(ids[1]):
        raise Dropped(LENGTH)
    if first[0] == first[1]:
        raise Dropped("answers begin alike")
    return {"clean_ids": ids[0], "corrupt_ids": ids[1], "answers": first[:1], "wrong": first[1:]}


def _with_start(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    return ids if start is None else [int(start), *ids]  # pyright: ignore[reportArgumentType]
