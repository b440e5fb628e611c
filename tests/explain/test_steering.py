"""Steering: a slow twin, laws, and a direction that was planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import two_variables as toy

from acdc.forward import trace
from discovery.explanation.proxy import part as proxy
from discovery.explanation.section import Section
from discovery.explanation.steering import part as steering
from discovery.explanation.variables import part as variables
from discovery.explanation.variables.alignment import Site
from discovery.explanation.variables.intervene import Runs, place
from discovery.settings.explanation import ExplainSettings, Proxy, Steering, Variables


@pytest.fixture(scope="module")
def planted():
    subject = toy.subject(32, chunk=20)
    return subject, Runs.of(subject.choose), Runs.of(subject.test)


def at_v(subject, basis=None):
    return Site(place(subject.graph, "a0.h0"), "end", basis)


def test_the_direction_of_two_classes_is_the_planted_one(planted):
    subject, choose, test = planted
    v = np.array(choose.prompts.features["v"])
    values = choose.values(at_v(subject).place, "end")
    inside = values @ toy.rotation()
    want = inside[torch.tensor(v == 1)].mean(0) - inside[torch.tensor(v == 0)].mean(0)
    found = steering.class_direction(values, v == 1, None) @ toy.rotation()
    torch.testing.assert_close(found, want / want.norm())
    within = steering.class_direction(values, v == 1, toy.rotation()[:, [0]])
    torch.testing.assert_close(within, toy.rotation()[:, 0])
    steer = steering.steer(choose, test, "v", at_v(subject))
    assert steer.signs.tolist() == [1.0 - 2 * x for x in test.prompts.features["v"]]
    assert float(steer.direction.norm()) == pytest.approx(1)


def test_the_main_direction_stays_in_the_subspace(planted):
    subject, choose, _ = planted
    basis, values = toy.rotation()[:, :2], choose.values(at_v(subject).place, "end")
    found = steering.main_direction(values, basis)
    torch.testing.assert_close(basis @ basis.T @ found, found)
    inside = (values - values.mean(0)) @ basis
    most = torch.linalg.eigvalsh(inside.T @ inside)[-1]
    assert float(((values - values.mean(0)) @ found).square().sum()) == pytest.approx(float(most))


def test_the_main_direction_points_where_its_largest_number_is_positive():
    for seed in range(12):
        values = torch.tensor(np.random.default_rng(seed).standard_normal((9, 4)))
        found = steering.main_direction(values, None)
        assert found[found.abs().argmax()] > 0


def planted_steer(subject, choose, test):
    """Along v itself, not the difference of means, which holds noise."""
    one = steering.steer(choose, test, "v", at_v(subject)).along(toy.rotation()[:, 0])
    along = choose.values(one.site.place, "end") @ one.direction
    nothing = torch.zeros(8, dtype=torch.float64)
    return steering.Steer(one.site, one.direction, float(along.std()), nothing, one.signs)


def test_dose_and_effect_of_the_planted_direction_by_hand(planted):
    """Each logit holds v / 5 of +-5 and w likewise: the difference to the opposite answer is 4."""
    subject, choose, test = planted
    steer = planted_steer(subject, choose, test)
    assert float(subject.test.model.score.mean()) == pytest.approx(4)
    for dose in (0.0, 0.5, 2.0, -1.0):
        values = steering.steered(subject.test, test, steer.site, steer.add(dose))
        np.testing.assert_allclose(values.score, 4 - 2 * dose * steer.sd, atol=1e-9)
    gone = steering.steered(subject.test, test, steer.site, steer.remove)
    np.testing.assert_allclose(gone.score, 2, atol=1e-9)


def test_a_dose_of_nothing_changes_nothing(planted):
    subject, choose, test = planted
    steer = planted_steer(subject, choose, test)
    plain = subject.test.model
    for elsewhere in (None, 3):
        values = steering.steered(subject.test, test, steer.site, steer.add(0.0), elsewhere)
        np.testing.assert_allclose(values.score, plain.score, atol=1e-12)
        np.testing.assert_allclose(values.kl, 0, atol=1e-12)
    words = steering.text(subject.model, 0)
    assert steering.text_kl(words, steer.site, steer.add(0.0, signed=False)).max() < 1e-12


def test_elsewhere_is_never_the_mark(planted):
    """What the only layer writes before the end is not read there: nothing moves at all."""
    subject, choose, test = planted
    steer = planted_steer(subject, choose, test)
    for seed in range(3):
        values = steering.steered(subject.test, test, steer.site, steer.add(2.0), elsewhere=seed)
        np.testing.assert_allclose(values.score, subject.test.model.score, atol=1e-12)


def test_taking_out_twice_is_taking_out_once(planted):
    subject, choose, test = planted
    steer = steering.steer(choose, test, "v", at_v(subject))
    values, every = test.values(steer.site.place, "end"), torch.arange(32)
    once = steer.remove(values, every)
    torch.testing.assert_close(steer.remove(once, every), once)
    mean = choose.values(steer.site.place, "end").mean(0) @ steer.direction
    torch.testing.assert_close(once @ steer.direction, mean.expand(32))


def test_a_random_direction_is_taken_out_to_its_own_mean(planted):
    """Its coordinate becomes the prompts' mean along it, not that of the variable's direction."""
    subject, choose, test = planted
    steer = steering.steer(choose, test, "v", at_v(subject))
    mean = choose.values(steer.site.place, "end").mean(0)
    other = steer.along(mean / mean.norm())
    assert abs(float(mean @ (other.direction - steer.direction))) > 0.1
    gone = other.remove(test.values(steer.site.place, "end"), torch.arange(32))
    torch.testing.assert_close(gone @ other.direction, (mean @ other.direction).expand(32))


def test_other_text_moves_as_a_slow_twin_says(planted):
    """Every position's logits move by the direction through W_O; KL by its definition."""
    subject, choose, test = planted
    model, steer = subject.model, planted_steer(subject, choose, test)
    words = steering.text(model, 0)
    tokens = words.run.streams[0].argmax(-1)  # embeddings are one-hot
    shift = 1.5 * steer.sd * steer.direction @ model.blocks[0].attn.W_O[0]
    found = steering.text_kl(words, steer.site, steer.add(1.5, signed=False))
    for row, own in zip(tokens, found, strict=True):
        kls = []
        for end in range(1, len(row) + 1):
            p = trace(model, row[None, :end]).logits[0]
            a, b = p.log_softmax(-1), (p + shift).log_softmax(-1)
            kls.append(float((a.exp() * (a - b)).sum()))
        assert own == pytest.approx(np.mean(kls), abs=1e-9)
    assert found.min() > 0.01


def test_the_section_says_what_the_direction_does(planted):
    subject, _, _ = planted
    basis = toy.rotation()[:, [0]].T.tolist()
    told = {"variables": Section("", "", (), found={
        "variables": {"v": {"place": "a0.h0", "mark": "end", "basis": basis}}
    })}  # fmt: skip
    asked = Steering(doses=(2.0,), draws=1)
    section = steering.explain(subject, asked, told)
    one = section.found["v"]
    assert [d["dose"] for d in one["doses"]] == [0.0, 2.0]
    assert one["doses"][0]["score"] == one["model"] == pytest.approx(4)
    assert one["doses"][1]["score"] < one["doses"][1]["random"]
    assert one["toward the other value"] and one["removed"]["score"] < 4
    assert steering.explain(subject, asked, told) == section


def test_the_section_s_figures_are_those_of_its_changes(planted):
    """Each by itself, along the variable's direction and the random one that the part draws."""
    subject, choose, test = planted
    basis = toy.rotation()[:, [0]]
    found = {"variables": {"v": {"place": "a0.h0", "mark": "end", "basis": basis.T.tolist()}}}
    told = {"variables": Section("", "", (), found=found)}
    section = steering.explain(subject, Steering(doses=(-1.0, 2.0), draws=1), told)
    own, rng = steering.steer(choose, test, "v", at_v(subject, basis)), subject.rng("steering")
    drawn = torch.tensor(rng.standard_normal(8))
    other = own.along(drawn / drawn.norm())
    words, one = steering.text(subject.model, subject.seed), section.found["v"]

    def score(to, **where):
        return steering.steered(subject.test, test, own.site, to, **where)

    doses = {d["dose"]: (d, own.add(d["dose"]), other.add(d["dose"])) for d in one["doses"]}
    for said, to, random in [*doses.values(), (one["removed"], own.remove, other.remove)]:
        assert said["score"] == pytest.approx(score(to).score.mean(), abs=1e-9)
        assert said["kl"] == pytest.approx(score(to).kl.mean(), abs=1e-9)
        assert said["random"] == pytest.approx(score(random).score.mean(), abs=1e-9)
        beside = score(to, elsewhere=subject.seed)
        assert said["kl_elsewhere"] == pytest.approx(beside.kl.mean(), abs=1e-9)
    plain = {d: (own.add(d, False), other.add(d, False)) for d in doses}
    for dose, (to, random) in plain.items():
        kls = [steering.text_kl(words, own.site, x).mean() for x in (to, random)]
        said = doses[dose][0]
        assert [said["kl_text"], said["random_kl_text"]] == pytest.approx(kls, abs=1e-9)
    taken, strongest = section.says
    assert f"taken out the score is {one['removed']['score']:.2f}" in taken
    assert strongest.startswith("v: 2 standard deviations toward the other value")


def test_variables_that_were_not_made_are_asked_once_as_the_user_asked(monkeypatch):
    asked = ExplainSettings(variables=Variables(k=(2,), steps=1, sources=1, nodes=1, streams=0))
    subject, made = replace(toy.subject(16), asked=asked), []
    explain = variables.explain
    monkeypatch.setattr(
        variables, "explain", lambda s, own, told: made.append(own) or explain(s, own, told)
    )
    for _ in range(2):
        found = steering.carriers(subject, {})
    assert made == [asked.variables] and found["v"].basis.shape[1] == 2
    wide = replace(subject, asked=ExplainSettings(variables=Variables(k=(64,))))
    for part, own in ((steering, Steering()), (proxy, Proxy())):
        assert part.check(wide, own).startswith("variables.k=64: ")
