"""What a consensus is asked; conf/consensus.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from discovery.choices.fields import Amount, Count, Fields, Least, Share

Pairs = Annotated[int, Field(ge=3)]  # six circuits: the fewest that show anything of an edge


class ConsensusSettings(Fields):
    """How many circuits, of what, and what the core may hold of chance."""

    pairs: Pairs  # the prompts are halved so often; two circuits each
    times: Annotated[tuple[Amount, ...], Field(min_length=1)]  # multiples of the run's size
    orders: bool  # a search's order of heads is drawn anew each time
    q: Annotated[Share, Field(gt=0)]  # share of the core that may be chance
    second: bool  # look for a second circuit without the first one's edges
    margin: Share  # by which a second circuit may recover less
    seed: Least
    device: str | None  # None: as the run had
    threads: Count | None
