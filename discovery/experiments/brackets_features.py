"""Features of bracket strings, each a pure function of the token ids [string, pos].

opens(i) and closes(i) count the brackets at positions >= i, and share p_i = opens / (opens +
closes); START stands at position 0. Read from the right, a string never closes more than it may
exactly if p_i <= 1/2 everywhere. Two further ones need a network: the share as its head 0.0 would
weigh it, and the direction in which that head writes.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from discovery.experiments.bracket_network import CLOSE, END, OPEN, PAD, START, BracketNetwork

TOLERANCE = 1e-6  # weighted shares that are 1/2 on paper miss it by rounding, on either side
PADDING, END_AFTER_OPEN, END_AFTER_CLOSE, BAD, GOOD = range(5)  # classes of `horizon_parts`

Tokens = Int[np.ndarray, "string pos"]
Shares = Float[np.ndarray, "string pos"]


def opens_closes(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Numbers of ( and of ) at this position and after."""

    def after(token: int) -> Tokens:
        return np.cumsum((tokens == token)[:, ::-1], axis=1)[:, ::-1]

    return after(OPEN), after(CLOSE)


def shares(tokens: Tokens) -> Shares:
    """p_i; 0 where no bracket follows. Equal fractions are equal floats."""
    opens, closes = opens_closes(tokens)
    return opens / np.maximum(opens + closes, 1)


def string_features(tokens: Tokens) -> dict[str, np.ndarray]:
    """start, count, count_start (both), horizon, balanced, length, half_parity, open_share.

    open_share is p_1 for strings that start with ( and -1, one class, for the others.
    """
    opens, closes = opens_closes(tokens)
    start = tokens[:, 1] == OPEN
    count = opens[:, 0] == closes[:, 0]
    horizon = np.all(opens <= closes, axis=1)
    length = opens[:, 0] + closes[:, 0]
    return {
        "start": start,
        "count": count,
        "count_start": count & start,
        "horizon": horizon,
        "balanced": count & horizon,
        "length": length,
        "half_parity": length // 2 % 2,
        "open_share": np.where(start, shares(tokens)[:, 1], -1.0),
    }


def horizon_parts(
    tokens: Tokens, share: Shares, tolerance: float = 0.0
) -> Int[np.ndarray, "string pos"]:
    """What each position says of the horizon: five classes.

    PADDING; END_AFTER_OPEN and BAD (share above 1/2) rule a balanced string out; END_AFTER_CLOSE
    and GOOD do not.
    """
    parts = np.where(share > 0.5 + tolerance, BAD, GOOD)
    before = np.roll(tokens, 1, axis=1)
    parts = np.where((tokens == END) & (before == OPEN), END_AFTER_OPEN, parts)
    parts = np.where((tokens == END) & (before != OPEN), END_AFTER_CLOSE, parts)
    return np.where(tokens == PAD, PADDING, parts)


def horizon_all(parts: Int[np.ndarray, "string pos"]) -> Bool[np.ndarray, " string"]:
    """No position rules a balanced string out."""
    return np.all((parts != BAD) & (parts != END_AFTER_OPEN), axis=1)


def adjusted_shares(network: BracketNetwork, tokens: Tokens) -> Shares:
    """Share of ( with each bracket weighted as head 0.0 attends to it from a ( at position i.

    The attention is to the mean of the two brackets' embeddings, averaged over the keys before i
    and over those at i and after, and sums to 1 over the brackets.
    """
    length = (tokens == OPEN).sum(1) + (tokens == CLOSE).sum(1)
    out = np.zeros(tokens.shape)
    for one in np.unique(length):
        weights = _bracket_weights(network, int(one), tokens.shape[1])
        rows = length == one
        out[rows, : one + 1] = (tokens[rows, 1 : one + 1] == OPEN) @ weights.T
    return out


def _bracket_weights(
    network: BracketNetwork, length: int, positions: int
) -> Float[np.ndarray, "query key"]:
    """Weights of the brackets 1..length for queries at 0..length."""
    layer = network.layers[0]
    embedded = {t: _normalised(network, t, positions) for t in (START, PAD, END, OPEN, CLOSE)}
    keys = embedded[PAD].clone()
    keys[0], keys[length + 1] = embedded[START][0], embedded[END][length + 1]
    inside = slice(1, length + 1)
    keys[inside] = (embedded[OPEN][inside] + embedded[CLOSE][inside]) / 2
    padded = torch.arange(positions) > length + 1
    found = layer.attention(0, embedded[OPEN][None], keys[None], padded[None])[0]
    attention = found.double().numpy()[: length + 1, inside]
    later = np.arange(1, length + 1) >= np.arange(length + 1)[:, None]
    weights = np.zeros_like(attention)
    for group in (later, ~later):
        mean = (attention * group).sum(1) / np.maximum(group.sum(1), 1)
        weights += group * mean[:, None]
    return weights / weights.sum(1, keepdims=True)


def _normalised(
    network: BracketNetwork, token: int, positions: int
) -> Float[Tensor, "pos d_model"]:
    """The token at every position, as layer 0's attention reads it."""
    return network.layers[0].ln1(network.embed(torch.full((1, positions), token))[0])


def open_direction(network: BracketNetwork) -> Float[Tensor, " d_model"]:
    """Half the difference of what head 0.0 writes for ( and for ), mean over bracket positions."""
    positions = len(network.W_pos)
    mean = [
        network.layers[0].moved(0, _normalised(network, token, positions)[1:-1]).mean(0)
        for token in (OPEN, CLOSE)
    ]
    return (mean[0] - mean[1]) / 2
