"""Identities that hold at the sizes given: literals that are sizes, layouts that come around."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from superopt.bench.identities.entry import Identity
from superopt.bench.identities.layout import to_pairs


def hidden(x: Tensor, m: Tensor) -> Tensor:
    """Scores under a mask of -inf."""
    return torch.where(m, x, -math.inf)


MASK = "f32[6],bool[6]"

# fmt: off
SIZES = (
    Identity("shuffle twice", lambda x: to_pairs(to_pairs(x)) * 1.0,
        lambda x: x * 1.0, "f32[2,4]", "an involution at size four"),
    Identity("shuffle four times", lambda x: to_pairs(to_pairs(to_pairs(to_pairs(x)))) * 1.0,
        lambda x: x * 1.0, "f32[2,6]", "2^4 is 1 modulo five"),
    Identity("roll twice", lambda x: x.roll(3, 1).roll(3, 1) * 1.0,
        lambda x: x * 1.0, "f32[2,6]", "around"),
    Identity("flip as a roll", lambda x: x.flip(1) * 1.0,
        lambda x: x.roll(1, 1) * 1.0, "f32[3,2]", "the same at size two"),
    Identity("permutation twice",
        lambda x: x[:, (2 * torch.arange(3)) % 3][:, (2 * torch.arange(3)) % 3] * 1.0, lambda x: x * 1.0,
        "f32[2,3]", "2 times 2 is 1 modulo three"),
    Identity("mean of two", lambda x: x.mean(1),
        lambda x: (x[:, 0] + x[:, 1]) / 2, "f32[3,2]", "the definition at size two"),
    Identity("sum of three", lambda x: x.sum(1),
        lambda x: x[:, 0] + x[:, 1] + x[:, 2], "f32[4,3]", "the definition at size three"),
    Identity("softmax of a row of two", lambda x: torch.softmax(x, 1)[:, 0],
        lambda x: torch.sigmoid(x[:, 0] - x[:, 1]), "f32[4,2]", "divided by the first"),
    Identity("softmax of one", lambda x: torch.softmax(x, 1),
        lambda x: torch.ones_like(x), "f32[4,1]", "the only one"),
    Identity("average of one row", lambda x: x.mean(0), lambda x: x[0] * 1.0, "f32[1,6]", "the only one"),
    Identity("variance of two", lambda x: x.var(1),
        lambda x: (x[:, 0] - x[:, 1]).square() / 2, "f32[4,2]", "one degree of freedom"),
    Identity("sum of positions", lambda x: x * torch.arange(6).to(x.dtype).sum(),
        lambda x: x * 15.0, "f32[6]", "15 at size six"),
    Identity("scale by the root of the size", lambda q, k: q @ k.T * q.shape[-1] ** -0.5,
        lambda q, k: q @ k.T / 3, "f32[3,9],f32[5,9]", "the root is three at size nine"),
    Identity("determinant of a product",
        lambda x, y: (lambda z: z[0, 0] * z[1, 1] - z[0, 1] * z[1, 0])(x @ y),
        lambda x, y: (x[0, 0] * x[1, 1] - x[0, 1] * x[1, 0]) * (y[0, 0] * y[1, 1] - y[0, 1] * y[1, 0]),
        "f32[2,2],f32[2,2]", "determinants multiply"),
    Identity("inverse of two by two",
        lambda x: x @ torch.stack([x[1, 1], -x[0, 1], -x[1, 0], x[0, 0]]).view(2, 2),
        lambda x: (x[0, 0] * x[1, 1] - x[0, 1] * x[1, 0]) * torch.eye(2, dtype=x.dtype), "f32[2,2]",
        "Cramer"),
    Identity("cayley and hamilton", lambda x: x @ x - (x[0, 0] + x[1, 1]) * x,
        lambda x: -(x[0, 0] * x[1, 1] - x[0, 1] * x[1, 0]) * torch.eye(2, dtype=x.dtype), "f32[2,2]",
        "a matrix solves its own equation"),
    Identity("cross product is orthogonal",
        lambda x, y: (x * (x.roll(-1, 1) * y.roll(1, 1) - x.roll(1, 1) * y.roll(-1, 1))).sum(1),
        lambda x, y: torch.zeros(4, dtype=x.dtype), "f32[4,3],f32[4,3]",
        "a determinant with two equal rows"),
    Identity("every position is below the size", lambda x: torch.where(torch.arange(200) < 200, x, 0.0),
        lambda x: x * 1.0, "f32[200]", "all of them"),
    Identity("window as wide as the row",
        lambda x: torch.where(torch.arange(200)[:, None] - torch.arange(200) < 200, x, 0.0),
        lambda x: x * 1.0, "f32[200,200]", "all of them"),
    Identity("masked value and its own mask", lambda x, m: hidden(x, m) == -math.inf,
        lambda x, m: ~m, MASK, "finite inputs are not -inf"),
    Identity("masked value below a maximum", lambda x, m: torch.maximum(hidden(x, m), x),
        lambda x, m: x * 1.0, MASK, "x or -inf, and x"),
    Identity("masked twice", lambda x, m: hidden(hidden(x, m), m),
        lambda x, m: hidden(x, m), MASK, "the same mask"),
    Identity("masked and shifted", lambda x, m: hidden(x, m) + 3,
        lambda x, m: hidden(x + 3, m), MASK, "-inf stays"),
    Identity("masked and doubled", lambda x, m: 2 * hidden(x, m),
        lambda x, m: hidden(x + x, m), MASK, "-inf stays"),
    Identity("masked logarithm", lambda x, m: torch.log(torch.where(m, x.exp(), 0.0)),
        lambda x, m: hidden(x, m), MASK, "log of 0 is -inf"),
    Identity("masked by an added logarithm", lambda x, m: x + torch.log(m * 1.0),
        lambda x, m: hidden(x, m), MASK, "log of 1 is 0, of 0 is -inf"),
    Identity("masked sigmoid", lambda x, m: torch.sigmoid(hidden(x, m)),
        lambda x, m: torch.sigmoid(x) * m, MASK, "a sigmoid of -inf is 0"),
    Identity("masked tanh", lambda x, m: torch.tanh(hidden(x, m)),
        lambda x, m: torch.where(m, torch.tanh(x), -1.0), MASK, "tanh of -inf is -1"),
    Identity("masked relu", lambda x, m: torch.relu(hidden(x, m)),
        lambda x, m: torch.relu(x) * m, MASK, "relu of -inf is 0"),
    Identity("floor of a negative", lambda x: torch.floor(-x),
        lambda x: -torch.ceil(x), "f32[6]", "mirrored"),
    Identity("floor of a shift", lambda x: torch.floor(x + 2),
        lambda x: torch.floor(x) + 2, "f32[6]", "whole numbers come out"),
    Identity("remainder by a floor", lambda x: x % 2.0,
        lambda x: x - 2 * torch.floor(x / 2), "f32[6]", "the definition"),
    Identity("a pole left out", lambda x: torch.where(x == 0, 0.0, x * x / x),
        lambda x: x * 1.0, "f32[6]", "zero at zero"),
    Identity("a root under its own mask", lambda x: torch.where(x > 0, torch.sqrt(x), 0.0),
        lambda x: torch.sqrt(torch.relu(x)), "f32[6]", "the root of zero"),
    Identity("logarithm of a doubled exponential", lambda x, y: torch.exp(torch.exp(x) + torch.exp(y)),
        lambda x, y: torch.exp(torch.exp(x)) * torch.exp(torch.exp(y)), "f32[6],f32[6]", "exponents add"),
    Identity("index into copies", lambda w, i: w.repeat_interleave(2, 0)[i] * 2,
        lambda w, i: w[i // 2] * 2, "f32[3,2],i64[6]", "copies next to each other", below=(0, 6)),
    Identity("index into repeats", lambda w, i: w.repeat(2, 1)[i] * 2,
        lambda w, i: w[i % 3] * 2, "f32[3,2],i64[6]", "copies one after another", below=(0, 6)),
    Identity("index into a shift", lambda w, i: w.roll(1, 0)[i] * 2,
        lambda w, i: w[(i + 4) % 5] * 2, "f32[5,2],i64[6]", "around", below=(0, 5)),
    Identity("index into a reversal", lambda w, i: w.flip(0)[i] * 2,
        lambda w, i: w[4 - i] * 2, "f32[5,2],i64[6]", "from the end", below=(0, 5)),
    Identity("sorting network",
        lambda x, y, z: torch.stack([torch.minimum(x, torch.minimum(y, z)), torch.maximum(x,
            torch.maximum(y, z))]),
        lambda x, y, z: (lambda a, b: torch.stack([torch.minimum(a, z), torch.maximum(b,
            z)]))(torch.minimum(x, y), torch.maximum(x, y)),
        "f32[6],f32[6],f32[6]", "three comparators, both ends"),
)
