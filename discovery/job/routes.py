"""What routes.jsonl holds: the information flow route of each of a run's first prompts.

Descriptive, of the whole model: what the answer's logit is made of, as `circuits route` finds it
for one prompt. It takes little more than a plain pass of each.
"""

from __future__ import annotations

from typing import Any

from acdc.bridge import LoadedModel
from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.flow.answers import Question, find_answer, to_json
from discovery.heads.describe import SHOWN

TOLD = ("tokens", "start", "threshold", "flow")
EDGE = ("kind", "layer", "head", "source", "target", "direct")
LEAST, PLACES = 1e-3, 6  # of an edge's flow, which is 1 at the top: what is written, decimals
MOST_TOKENS = 512  # of all prompts: states are decomposed by source token


def routes_of(prompts: Prompts, loaded: LoadedModel) -> list[dict[str, Any]]:
    """A route a prompt, in their order; or `why` there are none, of models that have none."""
    found, tokens = list[dict[str, Any]](), 0
    for row in range(min(SHOWN, len(prompts))):
        ids = tuple(prompts.tokens(row))
        tokens += len(ids)
        if tokens > MOST_TOKENS and found:
            break
        question = Question(ids, len(ids) - 1, prompts.answers[row], ())
        try:
            told = to_json(find_answer(question, loaded), loaded)
        except InputError as error:
            return [{"why": str(error)}]
        edges = [
            {**{key: edge[key] for key in EDGE}, "flow": round(edge["flow"], PLACES)}
            for edge in told["edges"]
            if edge["flow"] >= LEAST
        ]
        found.append({**{key: told[key] for key in TOLD}, "least": LEAST, "edges": edges})
    return found
