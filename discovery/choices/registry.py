"""Names of what can be chosen, and where it is: "module:object", imported when it is used.

Settings are checked by name before anything heavy is imported. One's own needs no change here: an
entry point of an installed package (group `circuit_discovery.method` and so on), or the name
"module:object" itself. "given:NAME" is an object of this process (discovery/choices/given.py).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from acdc.errors import InputError
from discovery.choices.given import PREFIX, given

KNOWN: dict[str, dict[str, str]] = {
    "method": {
        "acdc": "discovery.methods.greedy:ACDC",
        "ifr": "discovery.methods.scores:IFR",
        "eap": "discovery.methods.scores:EAP",
        "eap_ig": "discovery.methods.scores:EAPIG",
        "eap_ig_activations": "discovery.methods.scores:EAPIGActivations",
        "exact": "discovery.methods.scores:Exact",
        "iterative": "discovery.methods.iterative:Iterative",
        "learned": "discovery.methods.learned:Learned",
        "best": "discovery.methods.best:Best",
        "random": "discovery.methods.scores:Random",
        "given": "discovery.methods.given:Given",
    },
    "task": {
        "induction": "discovery.tasks.choices:InductionTask",
        "ioi": "discovery.tasks.choices:IOITask",
        "greater_than": "discovery.tasks.choices:GreaterThanTask",
        "pairs": "discovery.tasks.choices:PairsTask",
        "hf_dataset": "discovery.tasks.choices:HFDatasetTask",
        "mib_ioi": "discovery.tasks.choices:MibIOI",
        "mib_mcqa": "discovery.tasks.choices:MibMCQA",
        "mib_arc_easy": "discovery.tasks.choices:MibArcEasy",
        "mib_arc_challenge": "discovery.tasks.choices:MibArcChallenge",
        "mib_arithmetic_addition": "discovery.tasks.choices:MibAddition",
        "mib_arithmetic_subtraction": "discovery.tasks.choices:MibSubtraction",
    },
    "model": {
        "induction": "discovery.models.choices:InductionModel",
        "smollm2": "discovery.models.choices:SmolLM2Model",
        "hf": "discovery.models.choices:HFModel",
    },
    "metric": {
        "kl": "acdc.metrics:KL",
        "kl_reverse": "acdc.metrics:KL_REVERSE",
        "js": "acdc.metrics:JS",
        "logit_diff": "acdc.metrics:LOGIT_DIFF",
        "prob_diff": "acdc.metrics:PROB_DIFF",
        "nll": "acdc.metrics:NLL",
    },
    "ablation": {
        "other": "discovery.ablations.choices:Other",
        "resample": "discovery.ablations.choices:Resample",
        "mean": "discovery.ablations.choices:Mean",
        "zero": "discovery.ablations.choices:Zero",
        "noise": "discovery.ablations.noise:Noise",
        "optimal": "discovery.ablations.choices:Optimal",
    },
    "truth": {
        "compiled": "discovery.truth.compiled:cases",
        "constructed": "discovery.truth.constructed:cases",
        "trained": "discovery.truth.trained:cases",
        "published": "discovery.truth.published:cases",
    },
}
KEY = {"model": "kind"}  # the field that holds a group's name; elsewhere "name"


def names(group: str) -> list[str]:
    """Every name of a group, installed packages' included."""
    installed = sorted(e.name for e in entry_points(group=f"circuit_discovery.{group}"))
    return list(dict.fromkeys([*KNOWN[group], *installed]))


def check(group: str, name: object) -> str:
    """The name, if something goes by it; nothing of ours is imported. InputError otherwise."""
    where = f"{group}.{KEY.get(group, 'name')}={name!r}"
    if not isinstance(name, str):
        raise InputError(f"{where}: a name is a text")
    if ":" in name:
        load(group, name)
    elif name not in KNOWN[group] and name not in names(group):
        allowed = ", ".join(names(group))
        raise InputError(f"{where}: allowed are {allowed}, and module:object of your own")
    return name


def load(group: str, name: str) -> Any:
    """What goes by the name; InputError if it cannot be imported."""
    target = name if ":" in name else KNOWN[group].get(name)
    where = f"{group}.{KEY.get(group, 'name')}={name!r}"
    if name.startswith(PREFIX):
        return given(name)
    try:
        if target is None:
            (entry,) = entry_points(group=f"circuit_discovery.{group}", name=name)
            return entry.load()
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)
    except Exception as error:  # somebody's module may do anything
        raise InputError(f"{where} cannot be used: {type(error).__name__}: {error}") from error
