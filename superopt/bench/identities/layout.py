"""Identities of layout: reshapes, cuts and joins, repetition, reads at indices, rotary embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.identities.entry import Identity


def rotate_half(x: Tensor) -> Tensor:
    """The halves of the last dimension exchanged, the second negated."""
    a, b = x.chunk(2, -1)
    return torch.cat([-b, a], -1)


def rope_half(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """Rotary embedding, channel i paired with i + d/2; c, s [t, d/2]."""
    return x * torch.cat([c, c], -1) + rotate_half(x) * torch.cat([s, s], -1)


def rope_halves(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """The same, half by half."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def rope_pairs(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """Rotary embedding, channel 2i paired with 2i + 1."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)


def rope_turns(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
    """The same by a 2 x 2 matrix for each pair."""
    turn = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    return (turn @ x.unflatten(-1, (-1, 2))[..., None]).flatten(-3)


def to_pairs(x: Tensor) -> Tensor:
    """Channels from the layout of halves to the layout of pairs."""
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


ROPE = "f32[2,3,6],f32[3,3],f32[3,3]"

# fmt: off
LAYOUT = (
    Identity("transpose twice", lambda x: x.T.T * 2, lambda x: 2 * x, "f32[4,6]", "an involution"),
    Identity("permute there and back", lambda x: x.permute(2, 0, 1).permute(1, 2, 0) + 1,
        lambda x: x + 1, "f32[2,3,4]", "inverse permutations"),
    Identity("permute as two transposes", lambda x: x.permute(2, 0, 1).exp(),
        lambda x: x.transpose(0, 2).transpose(1, 2).exp(), "f32[2,3,4]", "a cycle is two transpositions"),
    Identity("movedim is permute", lambda x: x.movedim(0, -1).sin(),
        lambda x: x.sin().permute(1, 2, 0), "f32[2,3,4]", "the definition"),
    Identity("reshape of a reshape", lambda x: x.reshape(12, 2).reshape(4, 6) * 3,
        lambda x: x.view(4, 6) * 3, "f32[2,3,4]", "the order in memory stays"),
    Identity("flatten and unflatten", lambda x: x.flatten(1).exp().unflatten(1, (3, 4)),
        lambda x: x.exp(), "f32[2,3,4]", "a split undoes a merge"),
    Identity("chunks put together", lambda x: torch.cat(x.chunk(3, 1), 1).exp(),
        lambda x: x.exp(), "f32[4,6]", "a join undoes a cut"),
    Identity("uneven pieces put together", lambda x: torch.cat(x.split([1, 3, 2], 1), 1).exp(),
        lambda x: x.exp(), "f32[4,6]", "a join undoes a cut"),
    Identity("function of chunks", lambda x: torch.cat([c.tanh() for c in x.chunk(2)]),
        lambda x: x.tanh(), "f32[4,6]", "elements do not meet"),
    Identity("stack and unbind", lambda x, y: torch.stack([x, y], 1).unbind(1)[1] * 2,
        lambda x, y: 2 * y, "f32[4,6],f32[4,6]", "a cut undoes a join"),
    Identity("stack as cat", lambda x, y: torch.stack([x, y], 1) * 2,
        lambda x, y: torch.cat([x[:, None], y[:, None]], 1) * 2, "f32[4,6],f32[4,6]", "the definition"),
    Identity("sum of a stack", lambda x, y, z: torch.stack([x, y, z]).sum(0),
        lambda x, y, z: x + y + z, "f32[4],f32[4],f32[4]", "a sum over the new dimension"),
    Identity("maximum of a stack", lambda x, y: torch.stack([x, y]).amax(0),
        lambda x, y: torch.maximum(x, y), "f32[4,6],f32[4,6]", "two candidates"),
    Identity("cat is associative", lambda x, y, z: torch.cat([torch.cat([x, y]), z]) * 2,
        lambda x, y, z: 2 * torch.cat([x, torch.cat([y, z])]), "f32[2,3],f32[4,3],f32[1,3]",
        "joins associate"),
    Identity("sum of a cat", lambda x, y: torch.cat([x, y], 1).sum(1),
        lambda x, y: x.sum(1) + y.sum(1), "f32[4,3],f32[4,5]", "a sum in two parts"),
    Identity("slice of a cat", lambda x, y: torch.cat([x, y], 1)[:, 2:5] * 2,
        lambda x, y: torch.cat([x[:, 2:], y[:, :2]], 1) * 2, "f32[4,3],f32[4,5]", "across the seam"),
    Identity("nested slices", lambda x: x[:, 1:][:, 2:4].exp(),
        lambda x: x[:, 3:5].exp(), "f32[4,7]", "offsets add"),
    Identity("narrow is a slice", lambda x: x.narrow(1, 2, 3).exp(),
        lambda x: x[:, 2:5].exp(), "f32[4,7]", "the definition"),
    Identity("steps of steps", lambda x: x[:, ::2][:, ::3].exp(),
        lambda x: x[:, ::6].exp(), "f32[2,13]", "steps multiply"),
    Identity("even columns by a view", lambda x: x[:, ::2].exp(),
        lambda x: x.view(4, 3, 2)[..., 0].exp(), "f32[4,6]", "columns in pairs"),
    Identity("interleaved columns", lambda x, y: torch.stack([x, y], -1).flatten(-2)[:, 1::2] * 2,
        lambda x, y: 2 * y, "f32[4,3],f32[4,3]", "every second is y"),
    Identity("expand and repeat", lambda x, y: x[:, None].expand(4, 3, 6) * y,
        lambda x, y: x.unsqueeze(1).repeat(1, 3, 1) * y, "f32[4,6],f32[4,3,6]", "copies"),
    Identity("repeat_interleave by a view", lambda x, y: x.repeat_interleave(3, 0) * y,
        lambda x, y: x[:, None].expand(2, 3, 4).reshape(6, 4) * y, "f32[2,4],f32[6,4]",
        "copies next to each other"),
    Identity("repeat by cat", lambda x, y: x.repeat(3, 1) * y,
        lambda x, y: torch.cat([x, x, x]) * y, "f32[2,4],f32[6,4]", "copies one after another"),
    Identity("sum of repeats", lambda x: x.repeat_interleave(3, 1).sum(1),
        lambda x: 3 * x.sum(1), "f32[4,5]", "each counts three times"),
    Identity("mean of repeats", lambda x: x.repeat(1, 3).mean(1),
        lambda x: x.mean(1), "f32[4,5]", "copies do not change a mean"),
    Identity("flip twice", lambda x: x.flip(1).exp().flip(1),
        lambda x: x.exp(), "f32[4,6]", "an involution"),
    Identity("flip by an index", lambda x: x.flip(1) * 2,
        lambda x: 2 * x[:, 5 - torch.arange(6)], "f32[4,6]", "from the end"),
    Identity("flip under a sum", lambda x, y: (x.flip(0) * y).sum(),
        lambda x, y: (x * y.flip(0)).sum(), "f32[6],f32[6]", "the index is renamed"),
    Identity("roll there and back", lambda x: x.roll(2, 1).exp().roll(-2, 1),
        lambda x: x.exp(), "f32[4,6]", "inverse shifts"),
    Identity("roll by cat", lambda x: x.roll(2, 1) * 2,
        lambda x: torch.cat([x[:, -2:], x[:, :-2]], 1) * 2, "f32[4,6]", "the end comes first"),
    Identity("rolls add up", lambda x: x.roll(2, 1).roll(3, 1) * 2,
        lambda x: 2 * x.roll(5, 1), "f32[4,7]", "shifts add"),
    Identity("roll around", lambda x: x.roll(4, 1).roll(3, 1) * 2,
        lambda x: 2 * x, "f32[4,7]", "a shift by the length"),
    Identity("index_select of a range", lambda x: x.index_select(1, torch.tensor([1, 2, 3])) * 2,
        lambda x: x[:, 1:4] * 2, "f32[4,6]", "a slice"),
    Identity("gather of a whole row", lambda x, i: x.gather(0, i[:, None].expand(5, 4)) * 2,
        lambda x, i: 2 * x[i], "f32[6,4],i64[5]", "one index for each row", below=(0, 6)),
    Identity("gather by one-hot", lambda x, i: x.gather(1, i[:, None])[:, 0],
        lambda x, i: (x * F.one_hot(i, 6)).sum(1), "f32[4,6],i64[4]", "one term is left", below=(0, 6)),
    Identity("take_along_dim is gather", lambda x, i: x.take_along_dim(i, 1) * 2,
        lambda x, i: 2 * x.gather(1, i), "f32[4,6],i64[4,2]", "the definition", below=(0, 6)),
    Identity("embedding by one-hot", lambda i, w: F.embedding(i, w),
        lambda i, w: F.one_hot(i, 5).to(w.dtype) @ w, "i64[2,3],f32[5,4]", "one row is left", below=(5, 0)),
    Identity("embedding by an index", lambda i, w: F.embedding(i, w) * 2,
        lambda i, w: 2 * w[i], "i64[2,3],f32[5,4]", "the definition", below=(5, 0)),
    Identity("embedding then linear", lambda i, w, v: F.embedding(i, w) @ v,
        lambda i, w, v: (w @ v)[i], "i64[6],f32[5,4],f32[4,3]", "rows do not meet", below=(5, 0, 0)),
    Identity("function of an embedding", lambda i, w: F.silu(w[i]),
        lambda i, w: F.silu(w)[i], "i64[6],f32[5,4]", "elements do not meet", below=(5, 0)),
    Identity("one_hot by comparison", lambda i, x: F.one_hot(i, 5) * x,
        lambda i, x: (i[:, None] == torch.arange(5)).to(torch.int64) * x, "i64[4],f32[4,5]",
        "the definition", below=(5, 0)),
    Identity("index of an index", lambda x, i, j: x[i][j] * 2,
        lambda x, i, j: 2 * x[i[j]], "f32[5,3],i64[4],i64[6]", "indices compose", below=(0, 5, 4)),
    Identity("segment sum by one-hot", lambda x, i: torch.zeros(3, 4, dtype=x.dtype).index_add(0, i, x),
        lambda x, i: F.one_hot(i, 3).to(x.dtype).T @ x, "f32[6,4],i64[6]", "each row goes to its segment",
        below=(0, 3)),
    Identity("triangles add up", lambda x: x.tril() + x.triu(1),
        lambda x: x.clone(), "f32[5,5]", "each element is in one"),
    Identity("lower triangle by a mask", lambda x: x.tril(-1) * 2,
        lambda x: torch.where(torch.arange(5)[:, None] > torch.arange(5), 2 * x, 0.0), "f32[5,5]",
        "below the diagonal"),
    Identity("transposed triangle", lambda x: x.triu().T * 2,
        lambda x: 2 * x.T.tril(), "f32[5,5]", "rows and columns exchanged"),
    Identity("symmetric and skew part", lambda x: (x + x.T) / 2 + (x - x.T) / 2,
        lambda x: x.clone(), "f32[5,5]", "the transposes cancel"),
    Identity("diagonal by the identity", lambda x: x.diagonal() * 2,
        lambda x: 2 * (x * torch.eye(5, dtype=x.dtype)).sum(-1), "f32[5,5]",
        "one term of each sum is left"),
    Identity("pad and cut", lambda x: F.pad(x, (2, 3))[:, 2:8].exp(),
        lambda x: x.exp(), "f32[4,6]", "a cut undoes a pad"),
    Identity("pad by cat", lambda x: F.pad(x, (0, 2)) * 2,
        lambda x: torch.cat([2 * x, torch.zeros(4, 2, dtype=x.dtype)], 1), "f32[4,6]", "zeros at the end"),
    Identity("sum of a pad", lambda x: F.pad(x, (1, 2)).sum(1),
        lambda x: x.sum(1), "f32[4,6]", "zeros add nothing"),
    Identity("product of padded tiles", lambda x, w: F.pad(x, (0, 2)) @ F.pad(w, (0, 0, 0, 2)),
        lambda x, w: x @ w, "f32[4,6],f32[6,5]", "zeros add nothing"),
    Identity("windows by slices", lambda x: x.unfold(1, 3, 2) * 2,
        lambda x: torch.stack([x[:, 0:5:2], x[:, 1:6:2], x[:, 2:7:2]], -1) * 2, "f32[2,7]",
        "one slice for each place in the window"),
    Identity("pixel shuffle", lambda x: F.pixel_shuffle(x, 2) * 2,
        lambda x: 2 * x.view(2, 3, 2, 2, 2, 3).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 4, 6),
        "f32[2,12,2,3]", "channels become pixels"),
    Identity("pixel unshuffle undoes it", lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2) * 2,
        lambda x: 2 * x, "f32[2,8,2,3]", "inverse layouts"),
    Identity("channel shuffle twice",
        lambda x: x.view(2, 2, 3, 4).transpose(1, 2).reshape(2, 6, 4).exp().view(2, 3, 2,
            4).transpose(1, 2).reshape(2, 6, 4),
        lambda x: x.exp(), "f32[2,6,4]", "inverse layouts"),
    Identity("patches", lambda x: x.unfold(1, 2, 2).unfold(2, 2, 2).flatten(-2) * 2,
        lambda x: 2 * x.view(3, 2, 2, 3, 2).transpose(2, 3).reshape(3, 2, 3, 4), "f32[3,4,6]",
        "windows that do not overlap are a reshape"),
    Identity("average pooling by a view", lambda x: F.avg_pool1d(x, 2),
        lambda x: x.view(2, 3, 4, 2).mean(-1), "f32[2,3,8]", "windows do not overlap"),
    Identity("average pooling in two dimensions", lambda x: F.avg_pool2d(x, 2),
        lambda x: x.view(2, 3, 2, 2, 3, 2).mean((3, 5)), "f32[2,3,4,6]", "windows do not overlap"),
    Identity("maximum pooling by a view", lambda x: F.max_pool1d(x, 2),
        lambda x: x.view(2, 3, 4, 2).amax(-1), "f32[2,3,8]", "windows do not overlap"),
    Identity("maximum pooling by steps", lambda x: x.view(2, 4, 2).amax(-1),
        lambda x: torch.maximum(x[:, ::2], x[:, 1::2]), "f32[2,8]", "two candidates"),
    Identity("global average pooling", lambda x: F.adaptive_avg_pool2d(x, 1)[..., 0, 0],
        lambda x: x.flatten(2).mean(-1), "f32[2,3,4,5]", "one window"),
    Identity("nearest upsampling", lambda x: F.interpolate(x, scale_factor=2) * 2,
        lambda x: 2 * x.repeat_interleave(2, -1), "f32[2,3,4]", "each pixel twice"),
    Identity("differences of a prefix sum",
        lambda x: torch.cumsum(x, 1)[:, 1:] - torch.cumsum(x, 1)[:, :-1], lambda x: x[:, 1:].clone(),
        "f32[4,6]", "they telescope"),
    Identity("last of a prefix sum", lambda x: torch.cumsum(x, 1)[:, -1],
        lambda x: x.sum(1), "f32[4,6]", "all of them"),
    Identity("telescoping differences", lambda x: torch.diff(x, dim=1).sum(1),
        lambda x: x[:, -1] - x[:, 0], "f32[4,6]", "neighbours cancel"),
    Identity("rope by halves", rope_half, rope_halves, ROPE, "the two products for each half"),
    Identity("rope by pairs", rope_pairs, rope_turns, ROPE, "a rotation for each pair"),
    Identity("rope in two layouts", lambda x, c, s: rope_pairs(to_pairs(x), c, s),
        lambda x, c, s: to_pairs(rope_half(x, c, s)), ROPE,
        "one layout is the other, its channels renamed"),
    Identity("scores of rope in two layouts", lambda q, k, c, s: rope_half(q, c, s) @ rope_half(k, c, s).mT,
        lambda q, k, c, s: rope_pairs(to_pairs(q), c, s) @ rope_pairs(to_pairs(k), c, s).mT,
        "f32[2,3,4],f32[2,3,4],f32[3,2],f32[3,2]", "the sum over channels does not know their order"),
    Identity("norm of rope", lambda x, c, s: rope_half(x, c, s).square().sum(-1),
        lambda x, c, s: (x.unflatten(-1, (2, 3)).square().sum(-2) * (c.square() + s.square())).sum(-1),
        ROPE, "a rotation scales by c² + s²"),
    Identity("rope undone", lambda x, c, s: rope_half(rope_half(x, c, s), c, -s),
        lambda x, c, s: x * (c.square() + s.square()).repeat(1, 2), ROPE, "a rotation and its reverse"),
    Identity("rope by a product of pairs", lambda x, c, s: rope_pairs(x, c, s),
        lambda x, c, s: x * c.repeat_interleave(2, -1) + torch.stack([-x[..., 1::2], x[..., ::2]],
            -1).flatten(-2) * s.repeat_interleave(2, -1),
        ROPE, "the two products for each channel"),
    Identity("broadcast from the left", lambda x, b: x + b,
        lambda x, b: x + b.view(1, 1, 4).expand(2, 3, 4), "f32[2,3,4],f32[4]", "sizes of one repeat"),
    Identity("broadcast of two outer forms", lambda x, y: x[:, None] + y[None],
        lambda x, y: (y[:, None] + x[None]).T, "f32[4],f32[6]", "rows and columns exchanged"),
    Identity("sum of a broadcast", lambda x, y: (x[:, None] + y[None]).sum(1),
        lambda x, y: 6 * x + y.sum(), "f32[4],f32[6]", "x counts six times"),
    Identity("sum over dimensions in turn", lambda x: x.sum((0, 2)),
        lambda x: x.sum(2).sum(0), "f32[2,3,4]", "sums exchange"),
    Identity("sum of a reshaped tensor", lambda x: x.view(6, 4).sum(),
        lambda x: x.permute(2, 0, 1).sum(), "f32[2,3,4]", "all elements"),
)
