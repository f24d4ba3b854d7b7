"""Identities of products of matrices: order, blocks, folded scales, distances, convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.identities.entry import Identity


def strassen(x: Tensor, y: Tensor) -> Tensor:
    """A product of matrices by seven products of their quarters (Strassen, 1969)."""
    (a, b), (c, d) = (r.chunk(2, -1) for r in x.chunk(2, -2))
    (e, f), (g, h) = (r.chunk(2, -1) for r in y.chunk(2, -2))
    p1, p2, p3 = (a + d) @ (e + h), (c + d) @ e, a @ (f - h)
    p4, p5, p6, p7 = d @ (g - e), (a + b) @ h, (c - a) @ (e + f), (b - d) @ (g + h)
    top = torch.cat([p1 + p4 - p5 + p7, p3 + p5], -1)
    return torch.cat([top, torch.cat([p2 + p4, p1 - p2 + p3 + p6], -1)], -2)


def split_k(x: Tensor, w: Tensor, parts: int) -> Tensor:
    """A product summed over slices of its inner dimension."""
    total = torch.zeros(x.shape[0], w.shape[1], dtype=x.dtype)
    for a, b in zip(x.chunk(parts, 1), w.chunk(parts, 0), strict=True):
        total = total + a @ b
    return total


def tiles(x: Tensor, w: Tensor) -> Tensor:
    """A product by tiles of its result, two rows and three columns of them."""
    rows = [torch.cat([a @ b for b in w.split(2, 1)], 1) for a in x.split(2, 0)]
    return torch.cat(rows, 0)


def kron(a: Tensor, b: Tensor) -> Tensor:
    """The Kronecker product of two matrices."""
    (m, n), (p, q) = a.shape, b.shape
    return (a[:, None, :, None] * b[None, :, None, :]).reshape(m * p, n * q)


def experts_masked(x: Tensor, w: Tensor, e: Tensor) -> Tensor:
    """Each row by its own expert's weight, as a sum over experts under a mask."""
    y = torch.zeros(x.shape[0], w.shape[2], dtype=x.dtype)
    for k in range(w.shape[0]):
        y = y + torch.where((e == k)[:, None], x @ w[k], 0.0)
    return y


def experts_one_hot(x: Tensor, w: Tensor, e: Tensor) -> Tensor:
    """The same by a one-hot matrix and one einsum."""
    pick = F.one_hot(e, w.shape[0]).to(x.dtype)
    return torch.einsum("te,ekn,tk->tn", pick, w, x)


def causal_conv(x: Tensor, w: Tensor) -> Tensor:
    """A causal depthwise convolution [b, t, c] with taps [3, c], as shifted products."""
    p = F.pad(x, (0, 0, 2, 0))
    n = x.shape[1]
    return p[:, :n] * w[0] + p[:, 1 : n + 1] * w[1] + p[:, 2:] * w[2]


def gauss(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """The product of complex matrices a + ib and c + id by three real products."""
    s, t, u = (a + b) @ c, a @ (d - c), b @ (c + d)
    return s - u, s + t


# fmt: off
LINEAR = (
    Identity("matmul reassociated", lambda x, w, v: (x @ w) @ v,
        lambda x, w, v: x @ (w @ v), "f32[4,6],f32[6,5],f32[5,3]", "products of matrices associate"),
    Identity("matmul of four reassociated", lambda a, b, c, d: ((a @ b) @ c) @ d,
        lambda a, b, c, d: (a @ b) @ (c @ d), "f32[3,4],f32[4,2],f32[2,5],f32[5,3]",
        "products of matrices associate"),
    Identity("fourth power of a matrix", lambda x: (x @ x) @ (x @ x),
        lambda x: x @ (x @ (x @ x)), "f32[4,4]", "powers of one matrix associate"),
    Identity("transposed product", lambda x, w: (x @ w).T,
        lambda x, w: w.T @ x.T, "f32[4,6],f32[6,5]", "a transpose exchanges the factors"),
    Identity("gram matrix is symmetric", lambda x: x.T @ x,
        lambda x: (x.T @ x).T, "f32[4,6]", "products of numbers commute"),
    Identity("linear by hand", lambda x, w, b: F.linear(x, w, b),
        lambda x, w, b: x @ w.T + b, "f32[4,6],f32[5,6],f32[5]", "the definition"),
    Identity("addmm by hand", lambda c, x, w: torch.addmm(c, x, w, beta=0.5, alpha=2.0),
        lambda c, x, w: 2 * (x @ w) + c / 2, "f32[4,5],f32[4,6],f32[6,5]", "the definition"),
    Identity("baddbmm by hand", lambda c, x, y: torch.baddbmm(c, x, y),
        lambda c, x, y: torch.bmm(x, y) + c, "f32[2,3,5],f32[2,3,4],f32[2,4,5]", "the definition"),
    Identity("einsum is matmul", lambda x, w: torch.einsum("ik,kj->ij", x, w),
        lambda x, w: x @ w, "f32[4,6],f32[6,5]", "the definition"),
    Identity("einsum is scores", lambda q, k: torch.einsum("bqhd,bkhd->bhqk", q, k),
        lambda q, k: q.transpose(1, 2) @ k.permute(0, 2, 3, 1), "f32[2,3,2,4],f32[2,5,2,4]",
        "heads moved to the front"),
    Identity("einsum of one operand", lambda x: torch.einsum("bij->bj", x),
        lambda x: x.sum(1), "f32[2,3,4]", "a letter that is left out is summed"),
    Identity("einsum with ellipsis", lambda x, w: torch.einsum("...k,nk->...n", x, w),
        lambda x, w: F.linear(x, w), "f32[2,3,4],f32[5,4]", "the definition"),
    Identity("einsum of three in two steps", lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c),
        lambda a, b, c: torch.einsum("ij,jl->il", a, torch.einsum("jk,kl->jl", b, c)),
        "f32[3,4],f32[4,2],f32[2,5]", "sums exchange"),
    Identity("bilinear form", lambda x, w, y: torch.einsum("bi,ij,bj->b", x, w, y),
        lambda x, w, y: ((x @ w) * y).sum(-1), "f32[4,3],f32[3,5],f32[4,5]", "sums exchange"),
    Identity("trace of a product", lambda x, y: (x @ y).diagonal().sum(),
        lambda x, y: (x * y.T).sum(), "f32[4,6],f32[6,4]", "only the diagonal is needed"),
    Identity("trace is cyclic", lambda a, b, c: torch.einsum("ij,jk,ki->", a, b, c),
        lambda a, b, c: (c @ a @ b).diagonal().sum(), "f32[3,4],f32[4,5],f32[5,3]",
        "a cyclic shift keeps a trace"),
    Identity("frobenius norm by a trace", lambda x: (x @ x.T).diagonal().sum(),
        lambda x: x.square().sum(), "f32[4,6]", "the diagonal of a Gram matrix"),
    Identity("outer product by broadcast", lambda x, y: torch.outer(x, y),
        lambda x, y: x[:, None] * y, "f32[4],f32[6]", "the definition"),
    Identity("matmul as a broadcast sum", lambda x, w: x @ w,
        lambda x, w: (x[:, :, None] * w[None]).sum(1), "f32[4,6],f32[6,5]", "the definition"),
    Identity("matmul as outer products", lambda x, w: x @ w,
        lambda x, w: torch.stack([torch.outer(x[:, k], w[k]) for k in range(3)]).sum(0),
        "f32[4,3],f32[3,5]", "one outer product for each inner index"),
    Identity("vector by matrix", lambda x, w: x @ w,
        lambda x, w: (x[None] @ w)[0], "f32[6],f32[6,5]", "a row of one"),
    Identity("matrix by vector", lambda w, x: torch.mv(w, x),
        lambda w, x: (w * x).sum(-1), "f32[4,6],f32[6]", "the definition"),
    Identity("dot product", lambda x, y: torch.dot(x, y),
        lambda x, y: (x * y).sum(), "f32[6],f32[6]", "the definition"),
    Identity("split-k in two", lambda x, w: x @ w,
        lambda x, w: x[:, :4] @ w[:4] + x[:, 4:] @ w[4:], "f32[4,6],f32[6,5]", "a sum in two parts"),
    Identity("split-k in a loop", lambda x, w: x @ w,
        lambda x, w: split_k(x, w, 4), "f32[4,8],f32[8,5]", "a sum in parts"),
    Identity("split-k as a batch", lambda x, w: x @ w,
        lambda x, w: torch.bmm(x.view(4, 3, 2).transpose(0, 1), w.view(3, 2, 5)).sum(0),
        "f32[4,6],f32[6,5]", "the parts are a batch, which is summed"),
    Identity("tiles of the result", lambda x, w: x @ w,
        tiles, "f32[4,3],f32[3,6]", "each tile has its rows and columns"),
    Identity("fused projections", lambda x, w, v: torch.cat([x @ w, x @ v], -1),
        lambda x, w, v: x @ torch.cat([w, v], -1), "f32[4,6],f32[6,3],f32[6,5]", "columns side by side"),
    Identity("qkv in one product", lambda x, w: (x @ w).chunk(3, -1),
        lambda x, w: (x @ w[:, :4], x @ w[:, 4:8], x @ w[:, 8:]), "f32[3,5],f32[5,12]", "columns apart"),
    Identity("concatenated inner dimension",
        lambda x, y, w, v: torch.cat([x, y], -1) @ torch.cat([w, v], 0), lambda x, y, w, v: x @ w + y @ v,
        "f32[4,3],f32[4,2],f32[3,5],f32[2,5]", "a sum in two parts"),
    Identity("stacked rows", lambda x, y, w: torch.cat([x, y]) @ w,
        lambda x, y, w: torch.cat([x @ w, y @ w]), "f32[4,6],f32[2,6],f32[6,5]", "rows do not meet"),
    Identity("chunks of a batch", lambda x, w: torch.cat([c @ w for c in x.chunk(2)]),
        lambda x, w: x @ w, "f32[4,6],f32[6,5]", "rows do not meet"),
    Identity("stacked weights", lambda x, w, v: torch.stack([x @ w, x @ v]),
        lambda x, w, v: torch.einsum("bk,ekn->ebn", x, torch.stack([w, v])), "f32[4,6],f32[6,5],f32[6,5]",
        "a batch of weights"),
    Identity("block matrix",
        lambda a, b, c, d, x: torch.cat([torch.cat([a, b], 1), torch.cat([c, d], 1)]) @ x,
        lambda a, b, c, d, x: torch.cat([a @ x[:2] + b @ x[2:], c @ x[:2] + d @ x[2:]]),
        "f32[3,2],f32[3,4],f32[2,2],f32[2,4],f32[6,5]", "block by block"),
    Identity("strassen", lambda x, y: x @ y, strassen, "f32[4,4],f32[4,4]", "seven products of quarters"),
    Identity("complex product by three", lambda a, b, c, d: (a @ c - b @ d, a @ d + b @ c),
        gauss, "f32[3,4],f32[3,4],f32[4,2],f32[4,2]", "Gauss: (a+b)c, a(d-c), b(c+d)"),
    Identity("gain folded into the weight", lambda x, g, w: (x * g) @ w,
        lambda x, g, w: x @ (g[:, None] * w), "f32[4,6],f32[6],f32[6,5]", "a diagonal matrix in between"),
    Identity("output scale folded into the weight", lambda x, w, s: (x @ w) * s,
        lambda x, w, s: x @ (w * s), "f32[4,6],f32[6,5],f32[5]", "a diagonal matrix behind"),
    Identity("row scale after the product", lambda x, r, w: (x * r[:, None]) @ w,
        lambda x, r, w: r[:, None] * (x @ w), "f32[4,6],f32[4],f32[6,5]", "a diagonal matrix in front"),
    Identity("scalar between the factors", lambda x, w: (2 * x) @ (w / 2),
        lambda x, w: x @ w, "f32[4,6],f32[6,5]", "numbers commute with products"),
    Identity("dequantized by column", lambda x, q, s: x @ (q.to(x.dtype) * s),
        lambda x, q, s: (x @ q.to(x.dtype)) * s, "f32[4,6],i8[6,5],f32[5]",
        "the scale of a column leaves the sum"),
    Identity("zero point by a row sum", lambda x, w, z: x @ (w - z),
        lambda x, w, z: x @ w - x.sum(-1, keepdim=True) * z, "f32[4,6],f32[6,5],f32[5]",
        "the sum of x times a constant"),
    Identity("shift before a linear layer", lambda x, b, w: (x + b) @ w,
        lambda x, b, w: x @ w + b @ w, "f32[4,6],f32[6],f32[6,5]", "products distribute"),
    Identity("two weights added", lambda x, w, v: x @ w + x @ v,
        lambda x, w, v: x @ (w + v), "f32[4,6],f32[6,5],f32[6,5]", "products distribute"),
    Identity("difference of inputs", lambda x, y, w: x @ w - y @ w,
        lambda x, y, w: (x - y) @ w, "f32[4,6],f32[4,6],f32[6,5]", "products distribute"),
    Identity("residual in the weight", lambda x, w: x + x @ w,
        lambda x, w: x @ (w + torch.eye(5, dtype=w.dtype)), "f32[4,5],f32[5,5]",
        "x is x times the identity"),
    Identity("product with the identity", lambda x: x @ torch.eye(6, dtype=x.dtype),
        lambda x: x.clone(), "f32[4,6]", "the identity"),
    Identity("diagonal matrix as a gain", lambda g, x: (torch.eye(4, dtype=x.dtype) * g) @ x,
        lambda g, x: g[:, None] * x, "f32[4],f32[4,5]", "one term of each sum is left"),
    Identity("square of a sum of matrices", lambda x, y: (x + y) @ (x + y),
        lambda x, y: x @ x + x @ y + y @ x + y @ y, "f32[4,4],f32[4,4]",
        "products distribute, and do not commute"),
    Identity("rank-one update", lambda w, u, v, x: (w + torch.outer(u, v)) @ x,
        lambda w, u, v, x: w @ x + u * torch.dot(v, x), "f32[4,6],f32[4],f32[6],f32[6]",
        "a rank-one product is a dot product"),
    Identity("lora merged", lambda x, w, a, b: x @ w.T + 0.5 * ((x @ a.T) @ b.T),
        lambda x, w, a, b: F.linear(x, w + 0.5 * (b @ a)), "f32[4,6],f32[5,6],f32[2,6],f32[5,2]",
        "products distribute and associate"),
    Identity("two loras as one", lambda x, a, b, c, d: (x @ a) @ b + (x @ c) @ d,
        lambda x, a, b, c, d: (x @ torch.cat([a, c], 1)) @ torch.cat([b, d], 0),
        "f32[4,6],f32[6,2],f32[2,5],f32[6,3],f32[3,5]", "ranks side by side"),
    Identity("linear attention", lambda q, k, v: (q @ k.T) @ v,
        lambda q, k, v: q @ (k.T @ v), "f32[4,3],f32[5,3],f32[5,2]", "products of matrices associate"),
    Identity("flattened batch", lambda x, w: x @ w,
        lambda x, w: (x.reshape(6, 4) @ w).reshape(2, 3, 5), "f32[2,3,4],f32[4,5]",
        "batch and rows are one dimension"),
    Identity("shared weight as a batch", lambda x, w: x @ w,
        lambda x, w: torch.bmm(x, w.expand(2, 4, 5)), "f32[2,3,4],f32[4,5]", "one weight for all"),
    Identity("projection to heads", lambda x, w: (x @ w).view(2, 3, 2, 4).transpose(1, 2),
        lambda x, w: torch.einsum("bsk,khd->bhsd", x, w.view(5, 2, 4)), "f32[2,3,5],f32[5,8]",
        "columns are (head, channel)"),
    Identity("output projection by heads", lambda o, w: o.transpose(1, 2).reshape(2, 3, 8) @ w,
        lambda o, w: torch.einsum("bhsd,hdn->bsn", o, w.view(2, 4, 5)), "f32[2,2,3,4],f32[8,5]",
        "rows are (head, channel)"),
    Identity("transposed batch product", lambda x, y: x.mT @ y.mT,
        lambda x, y: torch.bmm(y, x).mT, "f32[2,4,3],f32[2,5,4]", "a transpose exchanges the factors"),
    Identity("kronecker products multiply", lambda a, b, x, y: kron(a, b) @ kron(x, y),
        lambda a, b, x, y: kron(a @ x, b @ y), "f32[2,3],f32[3,2],f32[3,2],f32[2,4]", "the mixed product"),
    Identity("kronecker product of a vector", lambda a, b, x: kron(a, b) @ x.reshape(-1),
        lambda a, b, x: (a @ x @ b.T).reshape(-1), "f32[2,3],f32[4,2],f32[3,2]", "the vec trick"),
    Identity("row sum of a product", lambda x, w: (x @ w).sum(-1),
        lambda x, w: x @ w.sum(-1), "f32[4,6],f32[6,5]", "sums exchange"),
    Identity("mean of the rows of a product", lambda x, w: (x @ w).mean(0),
        lambda x, w: x.mean(0) @ w, "f32[4,6],f32[6,5]", "sums exchange"),
    Identity("column sum by ones", lambda x: torch.ones(4, dtype=x.dtype) @ x,
        lambda x: x.sum(0), "f32[4,6]", "a product with ones is a sum"),
    Identity("prefix sum by a triangle", lambda x: torch.cumsum(x, 0),
        lambda x: torch.ones(5, 5, dtype=x.dtype).tril() @ x, "f32[5,3]", "each row sums those up to it"),
    Identity("squared distances", lambda a, b: (a[:, None] - b[None]).square().sum(-1),
        lambda a, b: a.square().sum(-1)[:, None] - 2 * (a @ b.T) + b.square().sum(-1), "f32[4,3],f32[5,3]",
        "the binomial"),
    Identity("parallelogram law", lambda a, b: (a + b).square().sum(-1) + (a - b).square().sum(-1),
        lambda a, b: 2 * (a.square().sum(-1) + b.square().sum(-1)), "f32[4,6],f32[4,6]",
        "mixed terms cancel"),
    Identity("dot product by polarization", lambda a, b: (a * b).sum(-1),
        lambda a, b: ((a + b).square().sum(-1) - (a - b).square().sum(-1)) / 4, "f32[4,6],f32[4,6]",
        "squares cancel"),
    Identity("centered gram matrix", lambda x: (x - x.mean(0)).T @ (x - x.mean(0)),
        lambda x: x.T @ x - 4 * torch.outer(x.mean(0), x.mean(0)), "f32[4,3]", "cross terms with the mean"),
    Identity("lagrange identity", lambda a, b: a.square().sum() * b.square().sum() - (a @ b).square(),
        lambda a, b: (torch.outer(a, b) - torch.outer(b, a)).square().sum() / 2, "f32[4],f32[4]",
        "Lagrange"),
    Identity("cosine similarity of unit rows",
        lambda a, b: (a / a.norm(dim=-1, keepdim=True)) @ (b / b.norm(dim=-1, keepdim=True)).T,
        lambda a, b: (a @ b.T) / (a.norm(dim=-1)[:, None] * b.norm(dim=-1)), "f32[4,3],f32[5,3]",
        "scales leave the sum"),
    Identity("moe by masks and by one-hot", experts_masked,
        experts_one_hot, "f32[4,3],f32[3,3,2],i64[4]", "one expert for each row", below=(0, 0, 3)),
    Identity("moe by a gather of weights", lambda x, w, e: torch.einsum("tk,tkn->tn", x, w[e]),
        experts_one_hot, "f32[4,3],f32[3,3,2],i64[4]", "one expert for each row", below=(0, 0, 3)),
    Identity("moe gate before or after",
        lambda x, w, g: torch.einsum("te,ten->tn", g, torch.einsum("tk,ekn->ten", x, w)),
        lambda x, w, g: torch.einsum("tek,ekn->tn", g[:, :, None] * x[:, None], w),
        "f32[4,3],f32[2,3,5],f32[4,2]", "gates leave the sum"),
    Identity("gated mlp with one weight", lambda x, w, v: F.silu(x @ w) * (x @ v),
        lambda x, w, v: (lambda g, u: F.silu(g) * u)(*(x @ torch.cat([w, v], 1)).chunk(2, -1)),
        "f32[4,6],f32[6,5],f32[6,5]", "columns side by side"),
    Identity("gated mlp split over its width", lambda x, w, v, d: (F.silu(x @ w) * (x @ v)) @ d,
        lambda x, w, v, d: (F.silu(x @ w[:, :3]) * (x @ v[:, :3])) @ d[:3] + (F.silu(x @ w[:, 3:]) *
            (x @ v[:, 3:])) @ d[3:],
        "f32[4,3],f32[3,6],f32[3,6],f32[6,3]", "tensor parallelism"),
    Identity("mlp split over its width", lambda x, w, v: F.gelu(x @ w) @ v,
        lambda x, w, v: sum(F.gelu(x @ a) @ b for a, b in zip(w.chunk(3, 1), v.chunk(3), strict=True)),
        "f32[4,3],f32[3,6],f32[6,4]", "tensor parallelism"),
    Identity("mlp split over its rows", lambda x, w, v: torch.cat([F.relu(c @ w) @ v for c in x.split(3)]),
        lambda x, w, v: F.relu(x @ w) @ v, "f32[6,4],f32[4,5],f32[5,3]", "rows do not meet"),
    Identity("convolution by windows", lambda x, w: x.unfold(-1, 3, 1) @ w,
        lambda x, w: w[0] * x[:, :-2] + w[1] * x[:, 1:-1] + w[2] * x[:, 2:], "f32[2,7],f32[3]",
        "one product for each tap"),
    Identity("pointwise convolution", lambda x, w: F.conv1d(x, w[:, :, None]),
        lambda x, w: torch.einsum("bct,oc->bot", x, w), "f32[2,3,5],f32[4,3]",
        "a window of one is a linear layer"),
    Identity("causal convolution", causal_conv,
        lambda x, w: (F.pad(x, (0, 0, 2, 0)).unfold(1, 3, 1) * w.T).sum(-1), "f32[2,5,3],f32[3,3]",
        "windows over what is padded"),
    Identity("convolution by conv1d", causal_conv,
        lambda x, w: F.conv1d(F.pad(x.mT, (2, 0)), w.T[:, None], groups=3).mT, "f32[2,5,3],f32[3,3]",
        "the definition"),
    Identity("patches by a product", lambda x, w: F.conv2d(x, w, stride=2),
        lambda x, w: torch.einsum("bcipjq,ocpq->boij", x.view(2, 3, 2, 2, 2, 2), w),
        "f32[2,3,4,4],f32[5,3,2,2]", "windows do not overlap"),
)
