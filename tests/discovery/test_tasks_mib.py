"""MIB's tasks, from data sets of the same columns: what is kept, dropped, asked, and held out."""

import json
import sys
from types import SimpleNamespace

import pytest
from conftest import make_tokenizer

from acdc.errors import InputError
from discovery.choices import registry
from discovery.tasks import mib


def ioi(io="Mary", subject="John", other="Tom", prompt=None, counterfactual=None):
    prompt = prompt or f"{io} met {subject}. {subject} gave milk to"
    counterfactual = counterfactual or f"{io} met {subject}. {io} gave milk to"
    return {
        "prompt": prompt,
        "metadata": {"indirect_object": io, "subject": subject, "random_c": other},
        "s2_io_flip_counterfactual": {"prompt": counterfactual},
    }


def choice(label="AB", key=0, letters="CD", other=1):
    def text(own):
        return f"Red. {own[0]} red {own[1]} blue. Answer:"

    return {
        "prompt": text(label), "choices": {"label": list(label)}, "answerKey": key,
        "symbol_counterfactual": {
            "prompt": text(letters), "choices": {"label": list(letters)}, "answerKey": str(other),
        },
    }  # fmt: skip


def arithmetic(
    operator="+", label="12", other="34", prompt="10 + 02 =", counterfactual="30 + 04 ="
):
    found = None if other is None else {"prompt": counterfactual, "label": other}
    return {
        "prompt": prompt, "operator": operator, "operand1": 1, "operand2": 2, "label": label,
        "random_counterfactual": found,
    }  # fmt: skip


TEXTS = ["Mary met John. gave milk to Tom Red. A B C D red blue. Answer: 10 + 02 = 30 04 12 34",
         "Mary John Tom", " John Mary Tom", "A", "B", "C", "D", "12", "34"]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(TEXTS)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the library and the hub; what was asked of it."""
    asked, splits = [], {}

    def load_dataset(path, subset=None, *, split, revision=None):
        asked.append((path, subset, split, revision))
        return splits[split]

    library = SimpleNamespace(load_dataset=load_dataset, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr("acdc.pretrained.why_unreachable", lambda *_: None)
    return SimpleNamespace(asked=asked, splits=splits)


def task_of(name, **fields):
    return registry.load("task", f"mib_{name}")(**fields)


def build(task, tokenizer):
    loaded = SimpleNamespace(tokenizer=tokenizer, d_vocab=999, n_ctx=50)
    return task.build(loaded, 0, ("answers", "wrong"), "method=eap")


def words(tokenizer, ids):
    return tokenizer.decode([i for i in ids if i >= 0])


def test_indirect_objects(hub, tokenizer):
    hub.splits["train"] = [
        ioi(), ioi(io="Mary-Ann"), ioi("John", "Mary"), ioi(counterfactual="Mary met John"),
    ]  # fmt: skip
    task = task_of("ioi", n=2)
    task.check("task")
    prompts = build(task, tokenizer)
    texts = [words(tokenizer, row) for row in prompts.rows()]
    assert texts[0] == "<bos>Mary met John. John gave milk to"
    assert words(tokenizer, prompts.corrupt[0].tolist()) == "<bos>Mary met John. Mary gave milk to"
    assert [words(tokenizer, a) for a in prompts.answers] == [" Mary", " John"]
    assert [words(tokenizer, a) for a in prompts.wrong] == [" John", " Mary"]
    known = "e5f3468f3af4c0883be35cd3bced8c711c95d286"
    assert hub.asked == [("mib-bench/ioi", None, "train", known)]


def test_what_is_dropped_is_told(hub):
    """A name of two tokens where the others have one; counterfactuals of another length."""
    letters = make_tokenizer([*TEXTS, "Mary-Ann"])
    hub.splits["train"] = [ioi(), ioi(other="Mary-Ann"), ioi(counterfactual="Mary met John")]
    notes = build(task_of("ioi", n=None), letters).notes
    assert notes["rows dropped: names differ in tokens"] == 1
    assert notes[f"rows dropped: {mib.LENGTH}"] == 1
    with pytest.raises(InputError, match=r"task.n=2, but only 1 are left"):
        build(task_of("ioi", n=2), letters)
    hub.splits["train"] = hub.splits["train"][1:]
    with pytest.raises(InputError, match="no row is left .1 for names differ in tokens, 1 for"):
        build(task_of("ioi", n=None), letters)


@pytest.mark.parametrize("name", ["mcqa", "arc_easy", "arc_challenge"])
def test_letters_without_a_blank(hub, tokenizer, name):
    hub.splits["train"] = [choice()]
    prompts = build(task_of(name, n=1), tokenizer)
    assert words(tokenizer, prompts.answers[0]) == "A" and words(tokenizer, prompts.wrong[0]) == "D"
    subset = "4_answer_choices" if name == "mcqa" else None
    assert hub.asked[0][:3] == (mib.SPECS[f"mib_{name}"].path, subset, "train")


def test_sums_and_differences(hub, tokenizer):
    hub.splits["train"] = [
        arithmetic("-"), arithmetic(), arithmetic(other=None), arithmetic(label="1234"),
        arithmetic(counterfactual=None),
    ]  # fmt: skip
    prompts = build(task_of("arithmetic_addition", n=None), tokenizer)
    assert [words(tokenizer, a) for a in prompts.answers] == ["12"]
    assert [words(tokenizer, a) for a in prompts.wrong] == ["34"]
    dropped = {k: v for k, v in prompts.notes.items() if k.startswith("rows dropped")}
    assert dropped == {
        "rows dropped: another operator": 1, "rows dropped: no counterfactual": 2,
        "rows dropped: an answer of several tokens": 1,
    }  # fmt: skip
    assert len(build(task_of("arithmetic_subtraction", n=None), tokenizer)) == 1


def test_a_search_takes_the_first_and_another_split_is_held_out(hub, tokenizer):
    names = ["Mary", "John", "Tom"]
    every = [ioi(a, b, c) for a in names for b in names for c in names if len({a, b, c}) == 3]
    hub.splits |= {"train": every, "validation": every[2:]}
    task = task_of("ioi", n=3)
    prompts = build(task, tokenizer)
    wanted = [words(tokenizer, a) for a in prompts.answers]
    assert wanted == [" " + r["metadata"]["indirect_object"] for r in every[:3]]
    parts = [build(task.of_part(part, 9), tokenizer) for part in ("tune", "test")]
    assert sum(map(len, parts)) == 4 and {own[2] for own in hub.asked} == {"train", "validation"}


def test_a_tokenizer_without_bos_begins_with_the_end_of_text(hub):
    plain = make_tokenizer(TEXTS, bos=False)
    hub.splits["train"] = [ioi()]
    bare = build(task_of("ioi", n=1), plain)
    plain.eos_token = "<unk>"
    begun = build(task_of("ioi", n=1), plain)
    assert begun.tokens(0) == [plain.eos_token_id, *bare.tokens(0)]


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "a"}, r"ioi \(train\), row 0: not a row of mib_ioi \(KeyError: 'metadata'"),
    (ioi() | {"s2_io_flip_counterfactual": None}, "TypeError.*columns: prompt, metadata, s2_io"),
])  # fmt: skip
def test_other_columns_are_told(hub, tokenizer, row, message):
    hub.splits["train"] = [row]
    with pytest.raises(InputError, match=message):
        build(task_of("ioi", n=1), tokenizer)


def test_text_needs_a_tokenizer_and_a_file_has_no_other_split(tmp_path):
    with pytest.raises(InputError, match="task=mib_ioi is text, but this model has no tokenizer"):
        build(task_of("ioi"), None)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ioi()))
    with pytest.raises(InputError, match=r"task.held_out='validation': .*rows.jsonl is one file"):
        task_of("ioi", path=str(path)).check("task")
    pytest.importorskip("datasets")
    task_of("ioi", path=str(path), held_out=None).check("task")
    with pytest.raises(InputError, match="there is no such file or folder"):
        task_of("ioi", path=str(tmp_path / "none.jsonl")).check("task")


def test_a_local_copy_is_read_by_the_library(tmp_path, tokenizer, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    splits = {"train": [ioi(), ioi("John", "Mary")], "validation": [ioi("Tom", "Mary", "John")] * 9}
    whole = {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    datasets.DatasetDict(whole).save_to_disk(tmp_path / "copy")
    task = task_of("ioi", path=str(tmp_path / "copy"), n=2)
    task.check("task")
    assert len(build(task, tokenizer)) == 2
    assert words(tokenizer, build(task.of_part("test", 5), tokenizer).answers[0]) == " Tom"
