"""More in a line: answers of several tokens, marks, variables; other files; counterfactuals."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest

from acdc.errors import InputError
from discovery.tasks import pairs
from discovery.tasks.choices import HFDatasetTask, NoneLeft, PairsTask

IDS = {"clean_ids": [1, 2, 3, 4], "corrupt_ids": [1, 9, 3, 4], "answers": [5], "wrong": [6]}
TEXT = {"clean": "The cat sat down", "corrupt": "The dog sat down"}


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(["The cat dog sat down up here, there"])


@pytest.fixture
def write(tmp_path):
    def write(lines, name="mine"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def load(write):
    def load(lines, **changes):
        given = {
            "tokenizer": None, "d_vocab": 20, "n": None, "seed": 0, "prepend_bos": False,
            "needs_answers": False, "needs_wrong": False, "corrupt_for": None,
        }  # fmt: skip
        return pairs.load(write(lines), **(given | changes))

    return load


# ---- answers of several tokens -------------------------------------------------------------------


def test_the_first_token_that_differs_is_asked_after_those_that_are_shared(load):
    """Right [7, 8, 5] and [7, 8, 6], wrong [7, 8, 9]: 7 and 8 end both prompts; 5 and 6, or 9?"""
    line = IDS | {"answers": [[7, 8, 5], [7, 8, 6, 1]], "wrong": [[7, 8, 9]]}
    other = IDS | {"answers": [[5, 1], 8], "wrong": [6]}
    prompts = load([line, IDS, other], answers="first")
    assert prompts.rows() == [(1, 2, 3, 4, 7, 8), (1, 2, 3, 4), (1, 2, 3, 4)]
    assert prompts.swapped().rows() == [(1, 9, 3, 4, 7, 8), (1, 9, 3, 4), (1, 9, 3, 4)]
    assert prompts.answers == ((5, 6), (5,), (5, 8)) and prompts.wrong == ((9,), (6,), (6,))
    assert prompts.marks["end"] == (5, 5, 5)  # columns: all end together
    assert prompts.notes["lines_with_answers_of_several_tokens"] == 2
    assert prompts.notes["lines_with_shared_beginnings"] == 1
    cut = load([line | {"answer_position": 1}], answers="first")
    assert cut.rows() == [(1, 2, 7, 8)]  # they follow what is read
    alone = load([IDS | {"answers": [[7, 8]]} | {"wrong": [5]}], answers="first")
    assert alone.answers == ((7,),) and alone.rows() == [(1, 2, 3, 4)]


def test_texts_of_several_tokens(load, tokenizer):
    line = TEXT | {"answers": [" up here"], "wrong": [" up there"]}
    prompts = load([line], tokenizer=tokenizer, answers="first", prepend_bos=True)
    assert tokenizer.decode(prompts.clean[0, 1:]) == "The cat sat down up"
    assert tokenizer.decode(list(prompts.answers[0])) == " here"
    assert tokenizer.decode(list(prompts.wrong[0])) == " there"
    with pytest.raises(InputError, match="line 1: answers holds ' up here'.*task.answers=first"):
        load([line], tokenizer=tokenizer)
    with pytest.raises(InputError, match="line 1: answers holds ' up zebra'.*exactly one known"):
        load([line | {"answers": [" up zebra"]}], tokenizer=tokenizer, answers="first")


@pytest.mark.parametrize("answers, wrong", [([[7, 8]], [7]), ([[7, 8]], [[7, 8]]), ([7], [[7, 8]])])
def test_answers_that_begin_with_one_another_do_not_part(load, answers, wrong):
    with pytest.raises(InputError, match=r"line 2: token \d is both in answers and in wrong"):
        load([IDS, IDS | {"answers": answers, "wrong": wrong}], answers="first")


# ---- marks and variables -------------------------------------------------------------------------


def test_marks_are_tokens_spans_of_characters_or_texts(load, tokenizer):
    lines = [TEXT | {"marks": {"verb": 2, "noun": [4, 7], "last": -1, "both": "cat sat"}}]
    prompts = load(lines, tokenizer=tokenizer, prepend_bos=True)
    assert prompts.marks == {"verb": (3,), "noun": (2,), "last": (4,), "both": (3,), "end": (4,)}
    cut = load([lines[0] | {"answer_position": 3}], tokenizer=tokenizer)
    assert cut.marks["both"] == (2,)  # a span's last token


def test_variables_are_numbers_that_do_not_depend_on_the_file(load, tokenizer):
    def of(lines):
        return load(lines, tokenizer=tokenizer).features

    one, two = ({**TEXT, "variables": {"number": kind, "n": n, "noun": noun, "is": True}}
                for kind, n, noun in (("one more", 3, " cat"), ("many", 5, " dog")))  # fmt: skip
    whole = of([one, two])
    assert whole["n"] == (3, 5) and whole["is"] == (1, 1)
    assert [tokenizer.decode([token]) for token in whole["noun"]] == [" cat", " dog"]
    assert len(set(whole["number"])) == 2 and min(whole["number"]) >= 2**32
    assert of([two])["number"] == whole["number"][1:]


FAULTS = {
    "end": ({"marks": {"end": 1}}, "mark 'end' is the answer's position and there by itself"),
    "no object": ({"marks": [1]}, r"marks must be an object of names and places, got list \[1\]"),
    "outside": ({"marks": {"a": 4}}, "mark 'a': token 4 is outside the prompt's 4 tokens"),
    "behind": (
        {"marks": {"a": 3}, "answer_position": 1},
        "mark 'a' is token 3, behind the answer's position 1",
    ),
    "kind": ({"marks": {"a": 1.5}}, "mark 'a' must be a token's number, characters .* number 1.5"),
    "span": ({"marks": {"a": [5, 5]}}, r"mark 'a': \[5, 5\] is no span of its 16 characters"),
    "far span": ({"marks": {"a": [5, 17]}}, r"mark 'a': \[5, 17\] is no span"),
    "no token": ({"marks": {"a": "t d", "b": "x"}}, "mark 'b': 'x' stands in clean 0 times"),
    "twice": ({"marks": {"a": "a"}}, "mark 'a': 'a' stands in clean 2 times"),
    "variables": ({"variables": 3}, "variables must be an object of names and values, got number"),
    "value": ({"variables": {"a": None}}, "variable 'a' must be a text or a whole number, got nul"),
    "lacks a mark": ({"marks": {}}, "has no mark 'noun', but line 1 has one; all lines need one,"),
    "lacks a variable": ({"variables": {}}, "has no variable 'v', but line 1 has one"),
}


@pytest.mark.parametrize("change, message", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_with_its_line(load, tokenizer, change, message):
    good = TEXT | {"marks": {"noun": 1}, "variables": {"v": 1}}
    with pytest.raises(InputError, match=rf"mine\.jsonl, line 2: {message}"):
        load([good, good | change, good], tokenizer=tokenizer)


def test_a_span_of_characters_needs_a_text(load):
    with pytest.raises(InputError, match="line 1: mark 'a': characters need a text"):
        load([IDS | {"marks": {"a": [0, 1]}}])


# ---- another file --------------------------------------------------------------------------------

LOADED = SimpleNamespace(tokenizer=None, d_vocab=100, n_ctx=32)


def numbered(first, n, **changes):
    return [IDS | {"clean_ids": [1, 2, 3, first + i]} | changes for i in range(n)]


def last(prompts):
    return [row[-1] for row in prompts.rows()]


def test_another_file_supplies_what_is_held_out(write):
    own, other = write(numbered(10, 25)), write(numbered(50, 10), "other")
    task = PairsTask(path=str(own), held_out=str(other))
    task.check("task")
    assert last(task.build(LOADED, 0)) == list(range(10, 35))  # all to search on
    assert len(task.model_copy(update={"n": 6}).build(LOADED, 0)) == 6
    parts = [last(task.of_part(part, 99).build(LOADED, 0)) for part in ("tune", "test")]
    assert [len(part) for part in parts] == [4, 6] and sorted(sum(parts, [])) == list(range(50, 60))
    assert last(task.more(1).build(LOADED, 0)) == list(range(50, 60))
    again = task.of_part("tune", 99)
    assert again is not None and again.of_part("test", 9).path == str(other)
    marked = write([*numbered(50, 3, split="tune"), *numbered(60, 2, split="test")], "other")
    task = PairsTask(path=str(own), held_out=str(marked))
    assert last(task.of_part("test", 99).build(LOADED, 0)) == [60, 61]
    before = task.fingerprint()
    write(numbered(50, 11), "other")
    assert task.fingerprint() != before


def test_a_line_of_another_files_part_is_refused(write):
    own, other = write(numbered(10, 2, split="test")), write(numbered(50, 2), "other")
    task = PairsTask(path=str(own), held_out=str(other))
    with pytest.raises(InputError, match="line 1: split is 'test', but with task.held_out"):
        task.build(LOADED, 0)
    turned = PairsTask(path=str(other), held_out=str(write(numbered(0, 2, split="search"))))
    with pytest.raises(InputError, match="line 2: split is 'search', .* are to tune and test on"):
        turned.of_part("tune", 9).build(LOADED, 0)
    with pytest.raises(NoneLeft, match="no line is left to tune on"):
        PairsTask(path=str(own), held_out=str(other)).of_part("tune", 9).build(LOADED, 0)
    with pytest.raises(InputError, match="task.held_out='nowhere': there is no such file"):
        PairsTask(path=str(own), held_out="nowhere").check("task")


# ---- counterfactuals -----------------------------------------------------------------------------


def bare(clean, answer, **changes):
    return {"clean_ids": clean, "answers": [answer]} | changes


def test_another_lines_prompt_has_its_length_and_another_answer(load):
    lines = [bare([1, 2, 3], 5), bare([1, 2, 4], 6), bare([7, 8], 5), bare([8, 9], 6),
             bare([3, 3, 3], 5), bare([9, 9, 9, 9], 7)]  # fmt: skip
    prompts = load(lines, corrupt="other")
    pairs_of = dict(zip(prompts.rows(), prompts.swapped().rows(), strict=True))
    assert pairs_of[7, 8] == (8, 9) and pairs_of[8, 9] == (7, 8)
    assert pairs_of[1, 2, 3] == pairs_of[3, 3, 3] == (1, 2, 4)
    assert pairs_of[1, 2, 4] in {(1, 2, 3), (3, 3, 3)} and (9, 9, 9, 9) not in pairs_of
    assert prompts.notes["lines_without_partner"] == 1 and prompts.notes["corrupt"] == "other"
    again = load(lines, corrupt="other")
    assert again.swapped().rows() == prompts.swapped().rows()
    with pytest.raises(InputError, match=r"corrupt=other: no line has a partner .* \(2 have none"):
        load([bare([1, 2], 5), bare([3, 4], 5)], corrupt="other")


def test_a_swap_changes_the_marked_tokens_and_no_other(load, tokenizer):
    first = {"clean": "The cat sat", "answers": [" up"], "marks": {"noun": [4, 7]}}
    second = {"clean": "The dog sat down", "answers": [" here"], "marks": {"noun": [4, 7]}}
    third = {"clean": "The cat sat down", "answers": [" here"], "marks": {"noun": "cat sat"}}
    prompts = load([first, second, third], tokenizer=tokenizer, corrupt="swap:noun")
    texts = [tokenizer.decode(list(row)) for row in prompts.swapped().rows()]
    assert texts == ["The dog sat", "The cat sat down"]  # the third's two tokens fit nobody's
    assert prompts.notes["lines_without_partner"] == 1
    assert prompts.marks["noun"] == (2, 1)  # columns


def test_a_swap_whose_text_is_split_otherwise_is_none(load, tokenizer):
    """ " cat" behind no space becomes "cat", which this tokenizer does not know as that token."""
    ids = tokenizer.encode("The cat")
    assert tokenizer.encode(tokenizer.decode(ids[1:])) == ids[1:]
    comma = {"clean": "The here, there", "answers": [" up"], "marks": {"x": ","}}
    noun = {"clean": "The cat sat there", "answers": [" down"], "marks": {"x": "sat"}}
    prompts = load([comma, noun], tokenizer=tokenizer, corrupt="swap:x")
    assert len(prompts) == 2


def test_what_cannot_be_swapped_is_told(load, write):
    with pytest.raises(InputError, match="corrupt=other: the lines have corrupt prompts; use"):
        load([IDS, IDS], corrupt="other")
    with pytest.raises(InputError, match="have no mark 'x'; marks: a"):
        load([bare([1, 2], 5, marks={"a": 0})] * 2, corrupt="swap:x")
    for wrong in ("swap", "swap:", "others"):
        with pytest.raises(InputError, match="task.corrupt=.*: allowed are given, other and"):
            PairsTask(path=str(write([IDS])), corrupt=wrong).check("task")


# ---- Hugging Face data sets ----------------------------------------------------------------------

ROWS = [
    {"text": "The cat sat", "other": {"text": "The dog sat"}, "who": "up", "no": "down", "at": 1},
    {"text": "The dog sat", "other": {"text": "The cat sat"}, "who": "down", "no": "up", "at": 1},
]
FIELDS = {
    "clean": "text", "corrupt": "other.text", "answers": " {who}", "wrong": " {no}",
    "marks.noun": "at", "variables.who": "who",
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the library and the hub behind it."""

    def load_dataset(path, subset=None, *, split, revision=None, data_files=None):
        if split != "train":
            raise ValueError(f"Unknown split {split!r}.\nShould be one of ['train'].")
        return ROWS

    library = SimpleNamespace(load_dataset=load_dataset, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr("acdc.pretrained.why_unreachable", lambda *_: None)


def asked(**changes):
    return HFDatasetTask(**({"path": "some/set", "fields": FIELDS} | changes))


def test_rows_of_a_data_set_are_lines(hub, tokenizer):
    loaded = SimpleNamespace(tokenizer=tokenizer, d_vocab=99, n_ctx=9)
    task = asked()
    task.check("task")
    prompts = task.build(loaded, 0, ("answers", "wrong"), "method=eap")
    texts = [tokenizer.decode(list(row)) for row in prompts.rows()]
    assert texts == ["The cat sat", "The dog sat"] and task.label == "set"
    assert [tokenizer.decode(list(a)) for a in prompts.answers] == [" up", " down"]
    assert prompts.marks["noun"] == (1, 1) and len(set(prompts.features["who"])) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fields": {"clean": "txt"}}, "row 0: task.fields.clean: no column 'txt'; columns: text"),
        ({"fields": {"clean": "text.a"}}, "row 1: task.fields.clean: no column 'text.a'"),
        ({"fields": {"clean": "at"}}, r"some/set \(train\), row 0: clean must be a string"),
        ({"rows": "tests"}, r"task.path='some/set', task.rows='tests': Unknown split 'tests'\.$"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_told(hub, tokenizer, changes, message):
    loaded = SimpleNamespace(tokenizer=tokenizer, d_vocab=99, n_ctx=9)
    with pytest.raises(InputError, match=message):
        asked(**changes).build(loaded, 0)


def test_fields_are_those_of_a_line(hub, monkeypatch):
    for name in ("prompt", "marks", "marks.", "clean.a"):
        with pytest.raises(InputError, match=re.escape(f"task.fields.{name}: there is no s")):
            asked(fields={name: "text"}).check("task")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'circuit-discovery\[datasets\]'"):
        asked().check("task")


@pytest.mark.parametrize("kind", ["rows.jsonl", "rows.parquet", "saved"])
def test_the_library_itself_reads_files_and_folders(kind, tokenizer, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    whole, path = datasets.Dataset.from_list(ROWS), str(tmp_path / kind)
    write = {"rows.jsonl": whole.to_json, "rows.parquet": whole.to_parquet}
    write.get(kind, whole.save_to_disk)(path)
    loaded = SimpleNamespace(tokenizer=tokenizer, d_vocab=99, n_ctx=9)
    task = asked(path=path)
    task.check("task")
    prompts = task.build(loaded, 0, ("answers", "wrong"), "method=eap")
    texts = [tokenizer.decode(list(row)) for row in prompts.rows()]
    assert texts == ["The cat sat", "The dog sat"] and prompts.marks["noun"] == (1, 1)


@pytest.mark.parametrize("path", ["none.jsonl", "./none", "/none"])
def test_a_file_that_is_not_there_is_no_hub_id(path):
    with pytest.raises(InputError, match=f"task.path='{path}': there is no such file or folder$"):
        asked(path=path).check("task")


def test_a_hub_that_is_away_is_asked_once(tokenizer, monkeypatch):
    asked_for = []
    away = lambda name, of: asked_for.append((name, of)) or "no network"  # noqa: E731
    monkeypatch.setattr("acdc.pretrained.why_unreachable", away)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    loaded = SimpleNamespace(tokenizer=tokenizer, d_vocab=99, n_ctx=9)
    with pytest.raises(InputError, match=r"the hub cannot be reached \(no network\)"):
        asked().build(loaded, 0)
    assert asked_for == [("some/set", "dataset")]
