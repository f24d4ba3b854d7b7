"""Identities of means, variances and normalizations, and of losses that are made of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.identities.entry import Identity

EPS = 1e-5


def rms(x: Tensor, g: Tensor) -> Tensor:
    """RMSNorm as model code writes it."""
    return g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS))


def layer_norm(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """LayerNorm by mean and biased variance."""
    mu = x.mean(-1, keepdim=True)
    return (x - mu) / torch.sqrt((x - mu).square().mean(-1, keepdim=True) + EPS) * g + b


def layer_norm_one_pass(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """LayerNorm by the mean of squares, in one pass."""
    mu, sq = x.mean(-1, keepdim=True), x.square().mean(-1, keepdim=True)
    return (x - mu) * torch.rsqrt(sq - mu * mu + EPS) * g + b


def merged_variance(x: Tensor) -> Tensor:
    """The biased variance of a row of eight from those of its parts, of three and five (Chan)."""
    a, b = x[:, :3], x[:, 3:]
    delta = b.mean(1) - a.mean(1)
    both = 3 * a.var(1, correction=0) + 5 * b.var(1, correction=0)
    return (both + delta.square() * (3 * 5 / 8)) / 8


def group_norm(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """GroupNorm of [n, 6, t] in two groups, by hand."""
    y = x.reshape(2, 2, -1)
    y = (y - y.mean(-1, keepdim=True)) * torch.rsqrt(y.var(-1, correction=0, keepdim=True) + EPS)
    return y.reshape(x.shape) * g[:, None] + b[:, None]


def folded_batch_norm(x: Tensor, w: Tensor, m: Tensor, v: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """A linear layer with the batch norm behind it in its weight."""
    scale = g * torch.rsqrt(v + EPS)
    return x @ (w * scale) + (b - m * scale)


# fmt: off
NORMS = (
    Identity("mean by a sum", lambda x: x.mean(1), lambda x: x.sum(1) / 6, "f32[4,6]", "the definition"),
    Identity("mean at size four", lambda x: x.mean(1),
        lambda x: x.sum(1) / 4, "f32[3,4]", "the literal is the size"),
    Identity("mean of scaled values", lambda x: (x / 6).sum(1),
        lambda x: x.mean(1), "f32[4,6]", "a number leaves the sum"),
    Identity("mean of means of equal blocks", lambda x: x.view(4, 3, 2).mean(2).mean(1),
        lambda x: x.mean(1), "f32[4,6]", "blocks weigh the same"),
    Identity("mean of unequal blocks", lambda x: (x[:, :2].mean(1) * 2 + x[:, 2:].mean(1) * 4) / 6,
        lambda x: x.mean(1), "f32[4,6]", "blocks weigh what they hold"),
    Identity("mean over two dimensions", lambda x: x.mean((1, 2)),
        lambda x: x.mean(2).mean(1), "f32[2,3,4]", "means of equal blocks"),
    Identity("mean of a shift", lambda x, c: (x + c[:, None]).mean(1),
        lambda x, c: x.mean(1) + c, "f32[4,6],f32[4]", "a mean of a constant"),
    Identity("mean of differences", lambda x, y: (x - y).mean(),
        lambda x, y: x.mean() - y.mean(), "f32[4,6],f32[4,6]", "a mean is linear"),
    Identity("deviations sum to zero", lambda x: (x - x.mean(1, keepdim=True)).sum(1),
        lambda x: torch.zeros(4, dtype=x.dtype), "f32[4,6]", "six means are the sum"),
    Identity("weighted mean", lambda x, w: (x * w).sum(1) / w.sum(1),
        lambda x, w: (x * (w / w.sum(1, keepdim=True))).sum(1), "f32[4,6],f32[4,6]",
        "a number leaves the sum", partial=True),
    Identity("weighted mean does not know the scale", lambda x, w: (x * w).sum(1) / w.sum(1),
        lambda x, w: (3 * w * x).sum(1) / (3 * w).sum(1), "f32[4,6],f32[4,6]", "the three cancels"),
    Identity("masked mean", lambda x, m: torch.where(m, x, 0.0).sum(1) / m.sum(1),
        lambda x, m: (x * m).mean(1) / m.to(x.dtype).mean(1), "f32[4,6],bool[4,6]", "both divided by six"),
    Identity("biased variance", lambda x: x.var(1, correction=0),
        lambda x: (x - x.mean(1, keepdim=True)).square().mean(1), "f32[4,6]", "the definition"),
    Identity("unbiased variance", lambda x: x.var(1),
        lambda x: (x - x.mean(1, keepdim=True)).square().sum(1) / 5, "f32[4,6]", "the definition"),
    Identity("unbiased from biased variance", lambda x: x.var(1),
        lambda x: x.var(1, correction=0) * 6 / 5, "f32[4,6]", "n and n - 1"),
    Identity("variance by the mean of squares", lambda x: x.var(1, correction=0),
        lambda x: x.square().mean(1) - x.mean(1).square(), "f32[4,6]", "the cross term"),
    Identity("variance by pairs", lambda x: x.var(1, correction=0),
        lambda x: (x[:, :, None] - x[:, None]).square().mean((1, 2)) / 2, "f32[4,6]", "all pairs"),
    Identity("variance of a shift", lambda x, c: (x + c[:, None]).var(1),
        lambda x, c: x.var(1), "f32[4,6],f32[4]", "the mean shifts too"),
    Identity("variance of a multiple", lambda x: (3 * x).var(1),
        lambda x: 9 * x.var(1), "f32[4,6]", "squares"),
    Identity("variance merged from two parts", lambda x: x.var(1, correction=0),
        merged_variance, "f32[4,8]", "Chan's formula"),
    Identity("standard deviation", lambda x: x.std(1),
        lambda x: x.var(1).sqrt(), "f32[4,6]", "the definition"),
    Identity("standard deviation of a multiple", lambda x: (-2 * x).std(1),
        lambda x: 2 * x.std(1), "f32[4,6]", "a root of squares"),
    Identity("mean square is variance and bias", lambda x: x.square().mean(1),
        lambda x: x.var(1, correction=0) + x.mean(1).square(), "f32[4,6]", "the cross term"),
    Identity("covariance", lambda x, y: ((x - x.mean()) * (y - y.mean())).mean(),
        lambda x, y: (x * y).mean() - x.mean() * y.mean(), "f32[6],f32[6]", "the cross terms"),
    Identity("covariance needs one mean", lambda x, y: ((x - x.mean()) * (y - y.mean())).sum(),
        lambda x, y: ((x - x.mean()) * y).sum(), "f32[6],f32[6]", "deviations sum to zero"),
    Identity("l2 norm", lambda x: x.norm(dim=-1),
        lambda x: x.square().sum(-1).sqrt(), "f32[4,6]", "the definition"),
    Identity("l1 norm", lambda x: torch.linalg.vector_norm(x, 1, -1),
        lambda x: x.abs().sum(-1), "f32[4,6]", "the definition"),
    Identity("maximum norm", lambda x: torch.linalg.vector_norm(x, float("inf"), -1),
        lambda x: torch.maximum(x.amax(-1), -x.amin(-1)), "f32[4,6]", "the larger end"),
    Identity("normalize by hand", lambda x: F.normalize(x, dim=-1),
        lambda x: x / x.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12), "f32[4,6]",
        "the definition"),
    Identity("normalize one by sum", lambda x: F.normalize(x, p=1.0, dim=-1),
        lambda x: x / x.abs().sum(-1, keepdim=True).clamp(min=1e-12), "f32[4,6]", "the definition"),
    Identity("rms_norm by hand", lambda x, g: F.rms_norm(x, (6,), g, EPS),
        rms, "f32[4,6],f32[6]", "the definition"),
    Identity("rms_norm by a division", rms,
        lambda x, g: x / ((x * x).sum(-1, keepdim=True) / 6 + EPS).sqrt() * g, "f32[4,6],f32[6]",
        "a root and its inverse"),
    Identity("rms_norm by a norm", lambda x: F.rms_norm(x, (4,), eps=0.0),
        lambda x: 2 * x / x.norm(dim=-1, keepdim=True), "f32[3,4]", "the root of four is two"),
    Identity("rms_norm of a multiple", lambda x, g: F.rms_norm(2 * x, (6,), g, 4 * EPS),
        lambda x, g: F.rms_norm(x, (6,), g, EPS), "f32[4,6],f32[6]", "eps scales with the square"),
    Identity("rms_norm before a linear layer", lambda x, g, w: F.rms_norm(x, (6,), g, EPS) @ w,
        lambda x, g, w: (x @ (g[:, None] * w)) * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS),
        "f32[4,6],f32[6],f32[6,5]", "the scale of a row leaves the sum"),
    Identity("rms_norm with gain one plus", lambda x, g: F.rms_norm(x, (6,), eps=EPS) * (1 + g),
        lambda x, g: rms(x, g) + F.rms_norm(x, (6,), eps=EPS), "f32[4,6],f32[6]", "products distribute"),
    Identity("rms_norm in single precision", lambda x, g: (rms(x.float(), g.float())).to(x.dtype),
        lambda x, g: F.rms_norm(x.float(), (6,), g.float(), EPS).to(x.dtype), "bf16[4,6],bf16[6]",
        "casts to a wider type change nothing"),
    Identity("rms_norm in two blocks", rms,
        lambda x, g: x * g * torch.rsqrt((x[:, :2].square().sum(-1, keepdim=True) + x[:,
            2:].square().sum(-1, keepdim=True)) / 6 + EPS),
        "f32[4,6],f32[6]", "a sum in two parts"),
    Identity("layer_norm by hand", lambda x, g, b: F.layer_norm(x, (6,), g, b, EPS),
        layer_norm, "f32[4,6],f32[6],f32[6]", "the definition"),
    Identity("layer_norm in one pass", layer_norm,
        layer_norm_one_pass, "f32[4,6],f32[6],f32[6]", "the variance by the mean of squares"),
    Identity("layer_norm is rms_norm of deviations", lambda x: F.layer_norm(x, (6,), eps=EPS),
        lambda x: F.rms_norm(x - x.mean(-1, keepdim=True), (6,), eps=EPS), "f32[4,6]", "the definition"),
    Identity("layer_norm of a shift", lambda x, c: F.layer_norm(x + c[:, None], (6,)),
        lambda x, c: F.layer_norm(x, (6,)), "f32[4,6],f32[4]", "the mean shifts too"),
    Identity("layer_norm before a linear layer", lambda x, g, b, w: F.layer_norm(x, (6,), g, b, EPS) @ w,
        lambda x, g, b, w: F.layer_norm(x, (6,), eps=EPS) @ (g[:, None] * w) + b @ w,
        "f32[4,6],f32[6],f32[6],f32[6,5]", "gain and bias in the weight"),
    Identity("layer_norm after the product", lambda x, w: F.layer_norm(x, (6,), eps=EPS) @ w,
        lambda x, w: (x @ w - x.mean(-1, keepdim=True) * w.sum(0)) * torch.rsqrt(x.var(-1,
            correction=0, keepdim=True) + EPS),
        "f32[4,6],f32[6,5]", "the mean times the column sums"),
    Identity("layer_norm by unbiased variance", lambda x: F.layer_norm(x, (6,), eps=EPS),
        lambda x: (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) * 5 / 6 + EPS),
        "f32[4,6]", "n and n - 1"),
    Identity("layer_norm over two dimensions", lambda x: F.layer_norm(x, (3, 4)),
        lambda x: F.layer_norm(x.flatten(1), (12,)).view(2, 3, 4), "f32[2,3,4]", "one merged dimension"),
    Identity("group_norm by hand", lambda x, g, b: F.group_norm(x, 2, g, b, EPS),
        group_norm, "f32[2,6,4],f32[6],f32[6]", "the definition"),
    Identity("group_norm of one group", lambda x: F.group_norm(x, 1),
        lambda x: F.layer_norm(x, (3, 4)), "f32[2,3,4]", "all channels"),
    Identity("group_norm of single channels", lambda x: F.group_norm(x, 3),
        lambda x: F.layer_norm(x, (4,)), "f32[2,3,4]", "a channel is a row"),
    Identity("instance_norm by hand", lambda x: F.instance_norm(x),
        lambda x: F.group_norm(x, 3), "f32[2,3,4]", "a channel is a group"),
    Identity("batch_norm by hand", lambda x, m, v, g, b: F.batch_norm(x, m, v, g, b, eps=EPS),
        lambda x, m, v, g, b: (x - m) / torch.sqrt(v + EPS) * g + b, "f32[4,3],f32[3],f32[3],f32[3],f32[3]",
        "the definition"),
    Identity("batch_norm as scale and shift", lambda x, m, v, g, b: F.batch_norm(x, m, v, g, b, eps=EPS),
        lambda x, m, v, g, b: x * (g * torch.rsqrt(v + EPS))[:, None] + (b - m * g * torch.rsqrt(v +
            EPS))[:, None],
        "f32[2,3,4],f32[3],f32[3],f32[3],f32[3]", "products distribute"),
    Identity("batch_norm folded into a linear layer",
        lambda x, w, m, v, g, b: F.batch_norm(x @ w, m, v, g, b, eps=EPS), folded_batch_norm,
        "f32[4,6],f32[6,3],f32[3],f32[3],f32[3],f32[3]", "a scale of columns"),
    Identity("standardized twice", lambda x: (x - x.mean()) / x.std(),
        lambda x: (2 * x + 3 - (2 * x + 3).mean()) / (2 * x + 3).std(), "f32[6]", "shift and scale cancel"),
    Identity("mse by hand", lambda x, y: F.mse_loss(x, y),
        lambda x, y: (x.square() - 2 * x * y + y.square()).mean(), "f32[4,6],f32[4,6]", "the binomial"),
    Identity("mse of sums", lambda x, y: F.mse_loss(x, y, reduction="sum"),
        lambda x, y: x.square().sum() + y.square().sum() - 2 * (x * y).sum(), "f32[4,6],f32[4,6]",
        "a sum is linear"),
    Identity("l1 loss by hand", lambda x, y: F.l1_loss(x, y),
        lambda x, y: (torch.maximum(x, y) - torch.minimum(x, y)).mean(), "f32[4,6],f32[4,6]",
        "the larger minus the smaller"),
    Identity("huber by where", lambda x, y: F.huber_loss(x, y, delta=1.5),
        lambda x, y: torch.where((x - y).abs() < 1.5, 0.5 * (x - y).square(), 1.5 * ((x - y).abs() -
            0.75)).mean(),
        "f32[4,6],f32[4,6]", "the definition"),
    Identity("huber by a clamp", lambda x, y: F.huber_loss(x, y, reduction="none"),
        lambda x, y: (lambda d, c: c * (d - 0.5 * c))((x - y).abs(), (x - y).abs().clamp(max=1.0)),
        "f32[4,6],f32[4,6]", "c is d or one"),
    Identity("smooth l1 by huber", lambda x, y: F.smooth_l1_loss(x, y, beta=2.0),
        lambda x, y: F.huber_loss(x, y, delta=2.0) / 2, "f32[4,6],f32[4,6]", "the definition"),
    Identity("hinge loss", lambda x, y: F.relu(1 - x * y).mean(),
        lambda x, y: (1 - x * y).clamp(min=0).sum() / 6, "f32[6],f32[6]", "the definition"),
    Identity("hinge by a minimum", lambda x, y: F.relu(1 - x * y),
        lambda x, y: 1 - torch.clamp(x * y, max=1), "f32[6],f32[6]", "1 - min(z, 1)"),
    Identity("squared hinge", lambda x: F.relu(1 - x).square(),
        lambda x: F.relu(1 - x) * (1 - x), "f32[6]", "zero where the other is negative"),
    Identity("margin ranking by hand", lambda a, b, y: F.margin_ranking_loss(a, b, y, margin=0.5),
        lambda a, b, y: F.relu(0.5 - y * (a - b)).mean(), "f32[6],f32[6],f32[6]", "the definition"),
    Identity("dice loss", lambda p, t: 1 - 2 * (p * t).sum() / (p.sum() + t.sum()),
        lambda p, t: ((p + t).sum() - 2 * (p * t).sum()) / (p.sum() + t.sum()), "f32[6],f32[6]",
        "a common denominator", partial=True),
)
