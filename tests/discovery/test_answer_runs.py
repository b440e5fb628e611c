"""task.answers=sequence from the line to the run folder and its validation."""

import json

import numpy as np
import pytest
import torch
from test_settings import AS_PUBLISHED, settings
from test_validate import validation

from acdc.ablation import RESAMPLE
from acdc.errors import InputError
from discovery.choices.fields import checked
from discovery.job.build import load_model, task_prompts
from discovery.job.pipeline import discover
from discovery.job.splits import new_rows
from discovery.runs.folder import read_run
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.run import RouteSettings
from discovery.studies.route import read_question
from discovery.tasks import pairs
from discovery.validation.bench import make_bench
from discovery.validation.held_out import held_out
from discovery.validation.resampling import resampled_baseline, scrub_circuit
from discovery.validation.runs import read_found, validate_runs

IDS = {"clean_ids": [1, 2, 3, 4], "corrupt_ids": [1, 9, 3, 4]}
GIVEN = {
    "tokenizer": None, "d_vocab": 20, "n": None, "seed": 0, "prepend_bos": False,
    "needs_answers": False, "needs_wrong": False, "corrupt_for": None, "answers": "sequence",
}  # fmt: skip


def write(folder, lines):
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def repeats(n=120, seed=0):
    """A stretch of random tokens, begun again: of 1 to 3 tokens that must follow all are asked."""
    draw, lines = np.random.default_rng(seed), []
    for i in range(n):
        own, other = draw.integers(1, 60, (2, 7)).tolist()
        tokens = 1 + i % 3
        lines.append({
            "clean_ids": [*own, *own[:2]], "corrupt_ids": [*other, *own[:2]],
            "answers": [own[2 : 2 + tokens]],
        })  # fmt: skip
    return lines


# ---- lines ---------------------------------------------------------------------------------------


def test_a_line_is_its_prompt_with_all_but_the_last_token_of_its_answer(tmp_path):
    lines = [IDS | {"answers": [[7, 8, 5]], "wrong": [6]}, IDS | {"answers": [6]}]
    prompts = pairs.load(write(tmp_path, lines), **GIVEN)
    assert prompts.rows() == [(1, 2, 3, 4, 7, 8), (1, 2, 3, 4)]
    assert prompts.swapped().rows() == [(1, 9, 3, 4, 7, 8), (1, 9, 3, 4)]
    assert prompts.answers == ((5,), (6,)) and prompts.forced == (2, 0)
    assert not prompts.has_wrong and prompts.notes["lines_with_answers_of_several_tokens"] == 1
    assert [prompts.clean[i, at].item() for i, at in enumerate(prompts.marks["end"])] == [4, 4]
    short = write(tmp_path, [lines[0] | {"answer_position": 1}])
    assert pairs.load(short, **GIVEN | {"length": 2}).rows() == [(1, 2, 7, 8)]


def test_texts_of_several_tokens(tmp_path, make_tokenizer):
    tokenizer = make_tokenizer(["The cat dog sat down up here"])
    line = {"clean": "The cat", "corrupt": "The dog", "answers": [" sat down here"]}
    found = pairs.load(write(tmp_path, [line]), **GIVEN | {"tokenizer": tokenizer})
    assert tokenizer.decode(found.clean[0]) == "The cat sat down"
    assert tokenizer.decode(found.corrupt[0]) == "The dog sat down"
    assert tokenizer.decode(list(found.answers[0])) == " here" and found.forced == (2,)


@pytest.mark.parametrize(
    "line, message",
    [
        ({"answers": [[5, 6], [7]]}, "line 1: answers holds 2 answers; task.answers=sequence asks"),
        ({}, "line 1: field 'answers' is missing, and task.answers=sequence needs it"),
        ({"answers": [[5, "a"]]}, 'line 1: answers must hold whole numbers, got string "a"'),
    ],
)
def test_what_is_refused(tmp_path, line, message):
    with pytest.raises(InputError, match=message):
        pairs.load(write(tmp_path, [IDS | line]), **GIVEN)


def test_a_metric_that_compares_is_refused_before_the_file_is_read(tmp_path):
    missing = tmp_path / "missing.jsonl"
    with pytest.raises(InputError, match="wrong answers.* take metric=nll or kl, or task.answers="):
        pairs.load(missing, **GIVEN | {"needs_wrong": True})


def test_counterfactuals_have_other_whole_answers(tmp_path):
    """Lines 1 and 2 part in their first token only, 1 and 3 in nothing but prompts."""
    lines = [
        {"clean_ids": [1, 2], "answers": [[5, 6]]}, {"clean_ids": [1, 3], "answers": [[7, 6]]},
        {"clean_ids": [1, 4], "answers": [[5, 6]]},
    ]  # fmt: skip
    found = pairs.load(write(tmp_path, lines), **GIVEN | {"corrupt": "other"})
    first = found.reading(0)
    assert first.rows() == [(1, 2), (1, 3), (1, 4)]
    assert first.swapped().rows()[0] == first.swapped().rows()[2] == (1, 3)
    assert [row[2:] for row in found.swapped().rows()] == [(5,), (7,), (5,)]  # its own


# ---- runs ----------------------------------------------------------------------------------------


def asked(tmp_path, *more):
    path = write(tmp_path, repeats())
    return settings(*AS_PUBLISHED, "task=pairs", f"task.path={path}", "task.answers=sequence",
                    "task.n=20", *more)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, said = tmp_path_factory.mktemp("sequence"), []
    chosen = asked(folder, "metric=nll", "method=eap", "method.n_edges=15", "test=12", "seed=3")
    discover(chosen, folder / "run", [], said.append)
    return chosen, read_run(folder / "run"), "\n".join(said)


def plainly(loaded, prompts):
    """(nll, whether all is right) of each answer, from plain passes of prompt and answer."""
    values, right = [], []
    for ids, forced, last in zip(prompts.rows(), prompts.forced, prompts.answers, strict=True):
        answer = [*ids[len(ids) - forced :], *last]
        logits = loaded.bridge(torch.tensor([ids]))[0, -1 - forced :].detach()
        values.append(-float(logits.log_softmax(-1)[range(len(answer)), answer].sum()))
        right.append(logits.argmax(-1).tolist() == answer)
    return values, right


def test_a_run_measures_whole_answers(run):
    chosen, found, said = run
    loaded = load_model(chosen)
    prompts = task_prompts(chosen.task, loaded, chosen.seed, ("answers",))
    values, right = plainly(loaded, prompts)
    assert len(values) == 20 and set(prompts.forced) == {0, 1, 2} and 0 < sum(right) < 20
    result = found.result
    assert result["metric_clean"] == pytest.approx(np.mean(values), abs=1e-4)
    assert result["scores"]["model"]["accuracy"] == pytest.approx(np.mean(right))
    assert result["scores"]["model"]["top1"] == result["scores"]["model"]["accuracy"]
    assert 0 < result["n_edges"] < result["n_edges_total"]
    assert "prompts: 20 of 9 tokens with answers of 1 to 3" in said
    heads = json.loads((found.folder / "heads.json").read_text())
    assert heads["prompts"][0]["tokens"] == [str(t) for t in prompts.reading(0).tokens(0)]
    assert heads["prompts"][0]["answers"] == [str(prompts.reading(0).answers[0][0])]


def test_held_out_prompts_are_other_questions_not_other_answers(run, tmp_path):
    lines = [IDS | {"answers": [answer]} for answer in ([7, 8], [7, 9], 5)]
    lines += [{"clean_ids": [1, 2, 3, 5], "corrupt_ids": [1, 9, 3, 5], "answers": [[7, 8]]}]
    prompts = pairs.load(write(tmp_path, lines), **GIVEN)
    assert new_rows(prompts, [prompts.take([0])]) == [3]
    assert "held out: 12 to test on" in run[2]


@pytest.mark.parametrize("words", [("budget=0.001",), pytest.param((), marks=pytest.mark.slow)])
def test_a_run_is_validated(run, words):
    """What takes no time, and everything."""
    asked = checked(FullEvaluation, validation(*words))
    (one,) = validate_runs(read_found([run[1].folder]), asked, lambda text: None)
    saved = json.loads((one.folder / "validation.json").read_text())
    assert saved["n_prompts"] == 80 and saved["verdicts"] and bool(saved["left_out"]) == bool(words)
    chosen, loaded = run[0], load_model(run[0])
    used = task_prompts(chosen.task, loaded, chosen.seed, ("answers",))
    values, right = plainly(loaded, held_out(chosen, loaded, [used], 80, asked.seed))
    assert saved["model_values"]["score"] == pytest.approx(-np.mean(values), abs=1e-4)
    assert saved["model_values"]["accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    "words",
    [
        ("method=acdc", "method.threshold=0.3"), ("method=eap_ig", "method.steps=2"),
        ("method=eap_ig_activations", "method.steps=2"), ("method=ifr",), ("method=exact",),
        ("method=learned", "method.steps=3"), ("method=iterative",),
        ("method=eap_ig", "ablation=other", "task.n=20"), ("method=eap_ig", "ablation=mean"),
        ("method=eap", "metric=nll", "ablation=optimal", "ablation.steps=2"),
    ],
)  # fmt: skip
@pytest.mark.quick("words0", "words4", "words5", "words7", "words8")
def test_every_method_runs(tmp_path, words):
    sized = ("task.n=6", *([] if "method=acdc" in words else ["method.n_edges=30"]))
    result = discover(asked(tmp_path, *sized, *words), tmp_path / "run", [], lambda text: None)
    assert 0 < result["n_edges"] <= (200 if "method=acdc" in words else 30)
    assert result["metric_circuit"] is not None


def test_a_route_is_that_of_the_first_token(tmp_path):
    chosen = asked(tmp_path, "method.threshold=0.1")
    loaded = load_model(chosen)
    prompts = task_prompts(chosen.task, loaded, 0)
    row = prompts.forced.index(2)
    route = RouteSettings.model_construct(
        model=chosen.model, task=chosen.task, prompt=row, seed=0, target=None, contrast=None,
        from_state=False,
    )  # fmt: skip
    question = read_question(route, loaded)
    first = prompts.reading(0)
    assert question.ids == first.rows()[row] and question.target == first.answers[row]


# ---- validation's draws --------------------------------------------------------------------------


def test_one_other_prompt_stands_in_for_all_tokens_of_an_answer(tmp_path):
    chosen = asked(tmp_path, "method.threshold=0.1")
    loaded = load_model(chosen)
    prompts = task_prompts(chosen.task, loaded, 0, ("answers",))
    bench = make_bench(loaded.model, loaded.model.graph(), prompts, RESAMPLE, chunk=4)
    turned = resampled_baseline(bench).score  # [prompts, others]
    nothing = bench.graph.legal & False
    found = scrub_circuit(bench, nothing, "shared", 2, np.random.default_rng(0)).score
    gap = np.abs(found[:, :, None] - turned[:, None]).min(-1)
    assert gap.max() < 1e-3 and np.ptp(found) > 1
