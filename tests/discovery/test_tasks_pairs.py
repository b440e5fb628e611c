"""The user's own pairs: what is read, and one clear sentence for everything that cannot be."""

from __future__ import annotations

import json
import re

import pytest

from acdc.errors import InputError
from discovery.tasks import pairs

GOOD = {"clean_ids": [1, 2, 3], "corrupt_ids": [1, 4, 3], "answers": [5], "wrong": [6]}
TEXT = {"clean": "The cat sat", "corrupt": "The dog sat", "answers": [" down"], "wrong": [" up"]}


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(["The cat dog sat down up here, there"])


@pytest.fixture
def load(tmp_path):
    def write_and_load(lines, **changes):
        path = tmp_path / "mine.jsonl"
        if lines is not None:
            shown = [line if isinstance(line, str) else json.dumps(line) for line in lines]
            path.write_text("\n".join(shown) + "\n" if shown else "", encoding="utf-8")
        given = {
            "tokenizer": None, "d_vocab": 20, "n": None, "seed": 0, "prepend_bos": False,
            "needs_answers": True, "needs_wrong": True,
        }  # fmt: skip
        return pairs.load(path, **(given | changes))

    return write_and_load


def numbered(k, **changes):
    return GOOD | {"clean_ids": [1, 2, k]} | changes


def without(line, *keys):
    return {key: value for key, value in line.items() if key not in keys}


def test_ids_without_a_tokenizer(load):
    prompts = load([GOOD, numbered(9, answers=[7, 8])])
    assert prompts.clean.tolist() == [[1, 2, 3], [1, 2, 9]]
    assert prompts.corrupt.tolist() == [[1, 4, 3], [1, 4, 3]]
    assert prompts.answers == ((5,), (7, 8)) and prompts.wrong == ((6,), (6,))
    assert prompts.answer_position == 2 and prompts.marks["end"] == (2, 2)


@pytest.mark.parametrize("prepend_bos", [False, True])
def test_text_is_encoded_and_read_back(load, tokenizer, prepend_bos):
    prompts = load([TEXT], tokenizer=tokenizer, prepend_bos=prepend_bos)
    assert tokenizer.decode(prompts.clean[0, int(prepend_bos) :]) == "The cat sat"
    assert tokenizer.decode(prompts.corrupt[0, int(prepend_bos) :]) == "The dog sat"
    assert tokenizer.decode(list(prompts.answers[0])) == " down"
    assert tokenizer.decode(list(prompts.wrong[0])) == " up"
    assert prompts.clean.shape == (1, 3 + prepend_bos)
    assert prompts.answer_position == 2 + prepend_bos


def test_ids_get_the_tokenizers_bos(load, tokenizer):
    bos = tokenizer.bos_token_id
    for start in ([], [bos]):  # it stands once, whoever put it there
        line = GOOD | {"clean_ids": [*start, 3, 2, 4], "corrupt_ids": [*start, 3, 5, 4]}
        line["answer_position"] = -2
        prompts = load([line], tokenizer=tokenizer, prepend_bos=True)
        assert prompts.clean.tolist() == [[bos, 3, 2]]  # cut after the position
        assert prompts.answer_position == 2
    unlike = GOOD | {"clean_ids": [bos, 3, 2], "corrupt_ids": [4, 3, 2]}
    with pytest.raises(InputError, match="BOS begins one of clean and corrupt only"):
        load([unlike], tokenizer=tokenizer, prepend_bos=True)


@pytest.mark.parametrize("given", [1, -2])
def test_answer_position_from_both_ends(load, given):
    prompts = load([GOOD | {"answer_position": given}, numbered(9, answer_position=1)])
    assert prompts.answer_position == 1 and prompts.clean.tolist() == [[1, 2], [1, 2]]


def test_answers_may_be_left_out_if_not_needed(load):
    line = without(GOOD, "answers", "wrong")
    prompts = load([line, GOOD], needs_answers=False, needs_wrong=False)
    assert prompts.answers == ((), (5,)) and not prompts.has_answers and not prompts.has_wrong


def test_corrupt_may_be_left_out_if_nobody_needs_it(load):
    lines = [without(GOOD, "corrupt_ids"), without(numbered(9), "corrupt_ids")]
    prompts = load(lines, corrupt_for=None)
    assert prompts.corrupt.tolist() == prompts.clean.tolist() == [[1, 2, 3], [1, 2, 9]]
    assert not prompts.has_corrupt and load([GOOD], corrupt_for=None).has_corrupt
    with pytest.raises(InputError, match="line 2: .*'corrupt_ids' is missing, and method=eap nee"):
        load([GOOD, lines[1]], corrupt_for="method=eap")
    with pytest.raises(InputError, match="line 2: has no corrupt prompt, but line 1 has one"):
        load([GOOD, lines[1]], corrupt_for=None)


def test_n_lines_by_seed_in_file_order(load):
    lines = [numbered(k) for k in range(20)]
    chosen = [load(lines, n=6, seed=seed).clean[:, 2].tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(chosen[0]) and len(set(chosen[0])) == 6
    assert load(lines).clean[:, 2].tolist() == list(range(20))


def test_length_uses_only_those_lines(load, tokenizer):
    longer = GOOD | {"clean_ids": [1, 2, 3, 4], "corrupt_ids": [1, 2, 3, 5]}
    prompts = load([GOOD, longer, numbered(9)], length=3)
    assert prompts.clean.tolist() == [[1, 2, 3], [1, 2, 9]]
    assert prompts.notes == {"lines": 3, "lines_dropped_by_length": 1}
    with_bos = load([GOOD, longer], tokenizer=tokenizer, prepend_bos=True, length=4)
    assert with_bos.clean.shape == (1, 4)


def test_windows_line_ends_byte_order_mark_and_blank_lines(load):
    line = json.dumps(GOOD)
    assert len(load([f"\ufeff{line}\r", "\r", line])) == 2


IDS_CASES = {
    "broken json": ('{"clean_ids": [1,}', r", column \d+: broken JSON"),
    "not an object": ("[1, 2]", r": must be a JSON object, got list \[1, 2\]"),
    "unknown field": (GOOD | {"anwsers": [1]}, ": unknown field 'anwsers'; allowed: clean, cor"),
    "nothing": ({}, ": field 'clean' is missing.*clean_ids and corrupt_ids"),
    "no corrupt_ids": (without(GOOD, "corrupt_ids"), ": field 'corrupt_ids' is missing"),
    "no corrupt": ({"clean": "The"}, ": field 'corrupt' is missing"),
    "text and ids": (GOOD | {"clean": "The"}, r": has both text \(clean\) and ids \(clean_ids\)"),
    "mixed pair": ({"clean": "a", "corrupt_ids": [1]}, ": has both text"),
    "text, no tokenizer": (TEXT, ": clean is text.*no tokenizer; give clean_ids"),
    "empty ids": (GOOD | {"clean_ids": []}, ": clean_ids is empty"),
    "ids no list": (GOOD | {"clean_ids": 3}, ": clean_ids must be a list, got number 3"),
    "ids null": (GOOD | {"clean_ids": None}, ": clean_ids must be a list, got null$"),
    "lengths": (GOOD | {"corrupt_ids": [1, 2]}, ": clean has 3 tokens, corrupt 2"),
    "id too big": (numbered(20), r": clean_ids holds token 20, outside .* 0\.\.19"),
    "id negative": (numbered(-1), ": clean_ids holds token -1, outside"),
    "id boolean": (numbered(True), ": clean_ids must hold whole numbers, got boolean true"),
    "id float": (numbered(3.0), ": clean_ids must hold whole numbers, got number 3.0"),
    "id text": (numbered("3"), ': clean_ids must hold whole numbers, got string "3"'),
    "no answers": (without(GOOD, "answers"), ": field 'answers' is missing, and the chosen metric"),
    "no wrong": (without(GOOD, "wrong"), ": field 'wrong' is missing, and the chosen metric"),
    "answers empty": (GOOD | {"answers": []}, ": answers is empty"),
    "answers no list": (GOOD | {"answers": 5}, ": answers must be a list, got number 5"),
    "answer boolean": (GOOD | {"answers": [True]}, ": answers must hold strings or token ids, got"),
    "answer too big": (GOOD | {"wrong": [99]}, ": wrong holds token 99, outside"),
    "answer text": (GOOD | {"answers": ["a"]}, ": answers holds the text 'a', but .* give ids"),
    "answer twice": (GOOD | {"answers": [5, 5]}, ": answers holds token 5 more than once"),
    "right and wrong": (GOOD | {"wrong": [4, 5]}, ": token 5 is both in answers and in wrong"),
    "position": (GOOD | {"answer_position": 3}, ": answer_position 3 is outside .* 3 tokens"),
    "position low": (GOOD | {"answer_position": -4}, ": answer_position -4 is outside"),
    "position kind": (GOOD | {"answer_position": "1"}, ": answer_position must be a whole number"),
}


@pytest.mark.parametrize("line, message", IDS_CASES.values(), ids=IDS_CASES.keys())
def test_a_bad_line_is_told_with_its_number_even_if_not_sampled(load, line, message):
    for n in (None, 1):  # every line is checked, whichever is chosen
        with pytest.raises(InputError, match=r"mine\.jsonl, line 4" + message) as caught:
            load([GOOD, "", GOOD, line, GOOD], n=n)
        assert "\n" not in str(caught.value)


STRICT_CASES = {
    "surrogate in text": (
        r'{"clean": "a\ud800", "corrupt": "b"}',
        r": '\\ud800' is half a character",
    ),
    "surrogate in answer": (json.dumps(GOOD | {"answers": ["\udfff"]}), "is half a character"),
    "surrogate in key": (r'{"\ud8ff": 1}', "is half a character"),
    "long number": (
        numbered(0) | {"wrong": [int("7" * 4000)]},
        r": a number of 4000 digits \(777777\.\.\.\) is no token id",
    ),
    "longer number": (
        json.dumps(GOOD)[:-1] + f', "answer_position": {"7" * 5000}}}',
        "of 5000 dig",
    ),
    "key twice": ('{"clean_ids": [1], "clean_ids": [2]}', ": field 'clean_ids' is there twice"),
    "key twice inside": ('{"answers": [{"a": 1, "a": 2}]}', ": field 'a' is there twice"),
    "nesting": ('{"clean_ids": ' + "[" * 100_000 + "]" * 100_000 + "}", ": brackets are nested"),
}


@pytest.mark.parametrize("line, message", STRICT_CASES.values(), ids=STRICT_CASES.keys())
def test_what_json_lets_pass_or_breaks_at_is_told_too(load, line, message):
    with pytest.raises(InputError, match=r"mine\.jsonl, line 2.*" + message) as caught:
        load([GOOD, line])
    assert len(str(caught.value)) < 400 and str(caught.value).encode()


def test_all_faulty_lines_are_named_at_once(load):
    with pytest.raises(InputError) as caught:
        load([GOOD, "{", GOOD, numbered(20), [], without(GOOD, "wrong")])
    lines = str(caught.value).splitlines()
    assert [re.search(r"line (\d+)", line)[1] for line in lines] == ["2", "4", "5", "6"]
    with pytest.raises(InputError) as caught:
        load([GOOD, *[numbered(20)] * 27])
    *lines, more = str(caught.value).splitlines()
    assert len(lines) == 20 and more == "... and 7 more lines"


def test_all_lines_that_lack_what_others_have_are_named(load):
    with pytest.raises(InputError) as caught:
        load([without(GOOD, "corrupt_ids"), GOOD, without(GOOD, "corrupt_ids")], corrupt_for=None)
    assert [line.partition(": ")[0][-1] for line in str(caught.value).splitlines()] == ["1", "3"]


def test_a_blank_at_the_end_is_warned_of(load, tokenizer):
    ends = TEXT | {"clean": "The cat sat ", "corrupt": "The dog sat "}
    assert "warning" not in load([TEXT], tokenizer=tokenizer).notes
    one = load([ends], tokenizer=tokenizer).notes["warning"]
    assert (
        one.startswith("1 prompt ends in a blank (line 1)")
        and "belongs to the token that follows" in one
    )
    two = load([ends, ends], tokenizer=tokenizer).notes["warning"]
    assert two.startswith("2 prompts end in a blank (line 1 the first)")
    before = ends | {"answer_position": 2}  # the blank is not read
    assert "warning" not in load([before], tokenizer=tokenizer).notes


TEXT_CASES = {
    "lengths": (
        TEXT | {"corrupt": "The dog sat down"},
        "clean has 3 tokens, corrupt 4, .*; clean: 'The', ' cat', ' sat'; corrupt: 'The', ' dog',",
    ),
    "empty": (TEXT | {"clean": ""}, "clean is empty"),
    "no string": (TEXT | {"clean": 5}, "clean must be a string, got number 5"),
    "leading space": (
        TEXT | {"answers": ["down"]},
        "answers holds 'down'.*did you mean ' down', with a leading",
    ),
    "two tokens": (
        TEXT | {"answers": [" down here"]},
        "answers .* one known token but .* ' down', ' here'; task.answers=first asks for the fir",
    ),
    "unknown": (TEXT | {"wrong": ["zebra"]}, "wrong holds 'zebra'.*need a leading space"),
    "answer empty": (TEXT | {"wrong": [""]}, "wrong holds '', .* splits into nothing"),
    "same by text": (TEXT | {"wrong": [" down"]}, "token .* is both in answers and in wrong"),
}


@pytest.mark.parametrize("line, message", TEXT_CASES.values(), ids=TEXT_CASES.keys())
def test_a_bad_line_of_text(load, tokenizer, line, message):
    with pytest.raises(InputError, match=rf"mine\.jsonl, line 2: {message}"):
        load([TEXT, line], tokenizer=tokenizer)


def test_text_outside_the_models_vocabulary(load, tokenizer):
    with pytest.raises(InputError, match="line 1: clean holds token .*, outside"):
        load([TEXT], tokenizer=tokenizer, d_vocab=3)


def test_lines_of_two_lengths_and_answer_positions(load):
    short = GOOD | {"clean_ids": [1, 2], "corrupt_ids": [1, 3]}
    early = GOOD | {"answer_position": 0}
    prompts = load([GOOD, short, early])
    assert prompts.rows() == [(1, 2, 3), (1, 2), (1,)] and prompts.extent == "1 to 3"
    assert prompts.swapped().rows() == [(1, 4, 3), (1, 3), (1,)]
    assert prompts.marks["end"] == (2, 2, 2)
    with pytest.raises(InputError, match=r"no line has task.length=5 tokens \(lines: 1 of 2 to"):
        load([GOOD, short], length=5)


def test_file_absent_empty_or_unreadable(load, tmp_path):
    with pytest.raises(InputError, match=r"mine\.jsonl: there is no such file"):
        load(None)
    for lines in ([], ["", "  "]):
        with pytest.raises(InputError, match=r"mine\.jsonl: the file has no lines"):
            load(lines)
    (tmp_path / "mine.jsonl").write_bytes(b'{"clean": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8 text at byte 11"):
        load(None)
    (tmp_path / "mine.jsonl").unlink()
    (tmp_path / "mine.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load(None)


def test_fewer_lines_than_asked_for(load):
    with pytest.raises(InputError, match="task.n=3, but only 2 lines"):
        load([GOOD, GOOD], n=3)
    with pytest.raises(InputError, match="task.n=0"):
        load([GOOD], n=0)


def test_bos_without_one(load, make_tokenizer):
    with pytest.raises(InputError, match="task.prepend_bos=true"):
        load([GOOD], prepend_bos=True)
    with pytest.raises(InputError, match="task.prepend_bos=true"):
        load([TEXT], prepend_bos=True, tokenizer=make_tokenizer(["The"], bos=False))
