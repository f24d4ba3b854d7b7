"""Near misses at infinite masks, at single positions of long rows, and at other sizes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.identities.entry import NearMiss
from superopt.bench.identities.layout import to_pairs

INF, MASK = math.inf, "f32[6],bool[6]"


def hidden(x: Tensor, m: Tensor) -> Tensor:
    """Scores under a mask of -inf."""
    return torch.where(m, x, -INF)


def apart(s: Tensor, m: Tensor) -> Tensor:
    """Scores of sixteen under a mask, and without the diagonal."""
    at = torch.arange(16)
    return torch.where(m & (at[:, None] != at), s, -INF)


# fmt: off
NEAR_MASKS = (
    NearMiss("masked value compared with itself", lambda x, m: hidden(x, m) - hidden(x, m) == 0,
        lambda x, m: m | True, MASK, "inf - inf is NaN, which equals nothing", at=(1.0, False)),
    NearMiss("masked value is below", lambda x, m: hidden(x, m) < -1e30,
        lambda x, m: m & ~m, MASK, "-inf is below", at=(1.0, False)),
    NearMiss("masked value is infinite", lambda x, m: torch.where(hidden(x, m) == -INF, 1.0, x),
        lambda x, m: x * 1.0, MASK, "-inf is -inf", at=(2.0, False)),
    NearMiss("masked value under a maximum", lambda x, m: torch.maximum(hidden(x, m), x),
        lambda x, m: hidden(x, m), MASK, "x is above", at=(1.0, False)),
    NearMiss("masked value through relu", lambda x, m: F.relu(hidden(x, m)),
        lambda x, m: torch.where(m, F.relu(x), -INF), MASK, "relu of -inf is 0", at=(1.0, False)),
    NearMiss("masked value squared", lambda x, m: hidden(x, m) * hidden(x, m),
        lambda x, m: torch.where(m, x * x, -INF), MASK, "-inf squared is inf", at=(1.0, False)),
    NearMiss("masked value inverted", lambda x, m: 1 / hidden(x.exp(), m),
        lambda x, m: torch.where(m, torch.exp(-x), -INF), MASK, "1 / -inf is 0", at=(1.0, False)),
    NearMiss("masked value negated", lambda x, m: -hidden(x, m),
        lambda x, m: hidden(-x, m), MASK, "inf or -inf", at=(1.0, False)),
    NearMiss("masked value exponentiated twice", lambda x, m: hidden(x, m).exp().exp(),
        lambda x, m: torch.where(m, x.exp().exp(), 0.0), MASK, "exp of 0 is 1", at=(1.0, False)),
    NearMiss("masked value in softplus", lambda x, m: torch.log1p(hidden(x, m).exp()),
        lambda x, m: torch.where(m, torch.log1p(x.exp()), -INF), MASK, "log of 1 is 0", at=(1.0, False)),
    NearMiss("masked value in a sum", lambda x, m: hidden(x, m).sum(),
        lambda x, m: torch.where(m, x, 0.0).sum(), MASK, "one -inf is all", at=(1.0, False)),
    NearMiss("masked value in a mean of exponentials", lambda x, m: hidden(x, m).exp().mean(),
        lambda x, m: hidden(x, m).exp().sum() / (m * 1.0).sum(), MASK, "masked values count",
        at=(1.0, [True, False, True, True, True, True])),
    NearMiss("masked value by a negative weight", lambda x, m: -2 * hidden(x, m),
        lambda x, m: hidden(-2 * x, m), MASK, "inf or -inf", at=(1.0, False)),
    NearMiss("masked logarithm", lambda x, m: torch.log(torch.where(m, x.exp(), 0.0)),
        lambda x, m: torch.where(m, x, 0.0), MASK, "log of 0 is -inf", at=(1.0, False)),
    NearMiss("no key, by a product", lambda x, m: hidden(x, m).softmax(0),
        lambda x, m: torch.where(m, hidden(x, m).softmax(0), 0.0), MASK, "NaN or zero", at=(1.0, False)),
    NearMiss("no key, a maximum of zero", lambda x, m: hidden(x, m).amax(0),
        lambda x, m: torch.where(m, x, -1e4).amax(0), MASK, "-inf or -10000", at=(1.0, False)),
    NearMiss("infinite mask times nothing", lambda x, m: torch.where(m, x, INF) * 0.0,
        lambda x, m: x * 0.0, MASK, "inf times 0 is NaN", at=(1.0, False)),
    NearMiss("infinite mask in a condition", lambda x, m: torch.where(hidden(x, m) * 0.0 == 0.0, x, 5.0),
        lambda x, m: x * 1.0, MASK, "NaN equals nothing", at=(1.0, False)),
    NearMiss("no key but its own", lambda s, m: apart(s, m).amax(1),
        lambda s, m: (lambda t: torch.where(t == -INF, 0.0, t))(apart(s, m).amax(1)),
        "f32[16,16],bool[16,16]", "no key at all", at=(1.0, False)),
    NearMiss("positions below a bound", lambda x: torch.where(torch.arange(200) < 150, x, 0.0),
        lambda x: x * 1.0, "f32[200]", "position 150", at=(1.0,)),
    NearMiss("positions below a bound, on two axes",
        lambda x: torch.where(torch.arange(200)[:, None] + torch.arange(200) < 300, x, 0.0),
        lambda x: x * 1.0, "f32[200,200]", "the last corner", at=(1.0,)),
    NearMiss("squares of positions below a bound",
        lambda x: torch.where(torch.arange(200) * torch.arange(200) < 22500, x, 0.0), lambda x: x * 1.0,
        "f32[200]", "position 150", at=(1.0,)),
    NearMiss("window wide but not wide enough",
        lambda x: torch.where((torch.arange(200)[:, None] - torch.arange(200)).to(torch.float32) < 180,
            x, 0.0).tril(),
        lambda x: x.tril(), "f32[200,200]", "the last rows", at=(1.0,)),
    NearMiss("window of a causal mask",
        lambda s: s.masked_fill(torch.ones(200, 200, dtype=torch.bool).triu(1), -INF).softmax(1),
        lambda s: s.masked_fill(torch.ones(200, 200, dtype=torch.bool).triu(1) | torch.ones(200, 200,
            dtype=torch.bool).tril(-190), -INF).softmax(1),
        "f32[200,200]", "the last rows", at=(0.0,)),
    NearMiss("one position", lambda x: torch.where(torch.arange(300) == 217, 0.0, x),
        lambda x: x * 1.0, "f32[300]", "position 217", at=(1.0,)),
    NearMiss("every hundredth position", lambda x: torch.where(torch.arange(300) % 100 == 99, 0.0, x),
        lambda x: x * 1.0, "f32[300]", "position 99", at=(1.0,)),
    NearMiss("last of a long row", lambda x: x[:, :255].sum(1),
        lambda x: x.sum(1), "f32[2,256]", "the last column", at=(1.0,)),
    NearMiss("prefix of a long row", lambda x: x[:, :128].amax(1),
        lambda x: x.amax(1), "f32[2,256]", "the second half", at=([0.0] * 128 + [1.0] * 128,)),
    NearMiss("long row cut into unequal parts", lambda x: x.view(2, 16, 16).sum(1),
        lambda x: x.view(2, 16, 16).sum(2), "f32[2,256]", "rows or columns"),
    NearMiss("shuffle twice at another size", lambda x: to_pairs(to_pairs(x)) * 1.0,
        lambda x: x * 1.0, "f32[2,6]", "an involution at size four alone"),
    NearMiss("roll twice at another size", lambda x: x.roll(3, 1).roll(3, 1) * 1.0,
        lambda x: x * 1.0, "f32[2,8]", "around at size six alone"),
    NearMiss("flip as a roll at another size", lambda x: x.flip(1) * 1.0,
        lambda x: x.roll(1, 1) * 1.0, "f32[2,3]", "the same at size two alone"),
    NearMiss("permutation twice at another size",
        lambda x: x[:, (2 * torch.arange(5)) % 5][:, (2 * torch.arange(5)) % 5] * 1.0, lambda x: x * 1.0,
        "f32[2,5]", "2 times 2 is 1 modulo three alone"),
    NearMiss("mean of two at another size", lambda x: x.mean(1),
        lambda x: (x[:, 0] + x[:, 1]) / 2, "f32[2,3]", "equal at size two alone"),
    NearMiss("softmax of two at another size", lambda x: torch.softmax(x, 1)[:, 0],
        lambda x: torch.sigmoid(x[:, 0] - x[:, 1]), "f32[4,3]", "equal at size two alone"),
    NearMiss("sum of positions at another size", lambda x: x * torch.arange(7).to(x.dtype).sum(),
        lambda x: x * 15.0, "f32[7]", "15 at size six alone"),
    NearMiss("average of one row at another size", lambda x: x.mean(0),
        lambda x: x[0] * 1.0, "f32[2,6]", "equal at size one alone"),
    NearMiss("deviation by a literal at another size", lambda x: x.var(1),
        lambda x: (x - x.mean(1, keepdim=True)).square().sum(1) / 5, "f32[3,7]",
        "n - 1 is five at size six alone"),
    NearMiss("scale by a literal at another head size", lambda q, k: q @ k.T * q.shape[-1] ** -0.5,
        lambda q, k: q @ k.T / 2, "f32[3,9],f32[5,9]", "the root is two at size four alone"),
    NearMiss("cubes of equal sizes permuted", lambda x: x.permute(2, 1, 0) * 2,
        lambda x: x.permute(2, 0, 1) * 2, "f32[3,3,3]", "equal sizes hide which"),
    NearMiss("batch and head of equal sizes", lambda q, k: torch.einsum("bhqd,bhkd->bhqk", q, k),
        lambda q, k: torch.einsum("bhqd,hbkd->bhqk", q, k), "f32[2,2,3,4],f32[2,2,5,4]",
        "equal sizes hide which"),
)
