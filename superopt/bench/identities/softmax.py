"""Identities of softmax, log-sum-exp and the losses made of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from superopt.bench.identities.entry import Identity


def cross_entropy_by_gather(x: Tensor, t: Tensor) -> Tensor:
    """Cross entropy by the log-probability of each row's class."""
    return -torch.log_softmax(x, 1).gather(1, t[:, None]).mean()


def cross_entropy_by_mask(x: Tensor, t: Tensor) -> Tensor:
    """Cross entropy by a comparison with the classes, instead of a gather."""
    hit = t[:, None] == torch.arange(x.shape[1])
    return (torch.logsumexp(x, 1) - torch.where(hit, x, 0.0).sum(1)).mean()


def cross_entropy_ignoring(x: Tensor, t: Tensor) -> Tensor:
    """Cross entropy over the rows whose class is not 0, by hand."""
    keep = t != 0
    nll = torch.logsumexp(x, 1) - x.gather(1, t[:, None])[:, 0]
    return torch.where(keep, nll, 0.0).sum() / keep.sum()


# fmt: off
SOFTMAX = (
    Identity("softmax by exponentials", lambda x: torch.softmax(x, -1),
        lambda x: x.exp() / x.exp().sum(-1, keepdim=True), "f32[4,6]", "the definition"),
    Identity("softmax shifted by the maximum", lambda x: torch.softmax(x, -1),
        lambda x: (lambda e: e / e.sum(-1, keepdim=True))((x - x.amax(-1, keepdim=True)).exp()), "f32[4,6]",
        "the shift cancels"),
    Identity("softmax shifted by anything", lambda x, c: torch.softmax(x + c, -1),
        lambda x, c: torch.softmax(x, -1), "f32[4,6],f32[4,1]", "the shift cancels"),
    Identity("softmax over another dimension", lambda x: torch.softmax(x, 0),
        lambda x: torch.softmax(x.T, -1).T, "f32[4,6]", "a transpose"),
    Identity("softmax over two dimensions", lambda x: torch.softmax(x.flatten(1), -1).view(2, 3, 4),
        lambda x: x.exp() / x.exp().sum((1, 2), keepdim=True), "f32[2,3,4]", "the definition"),
    Identity("softmax by log-sum-exp", lambda x: torch.softmax(x, -1),
        lambda x: torch.exp(x - torch.logsumexp(x, -1, keepdim=True)), "f32[4,6]",
        "a division is a difference"),
    Identity("softmax of logarithms", lambda x: torch.softmax(torch.log(x), -1),
        lambda x: x / x.sum(-1, keepdim=True), "f32[4,6]", "exp undoes log", partial=True),
    Identity("softmax of two is a sigmoid", lambda x, y: torch.softmax(torch.stack([x, y], -1), -1)[..., 0],
        lambda x, y: torch.sigmoid(x - y), "f32[4],f32[4]", "divided by the first"),
    Identity("softmax of log_softmax", lambda x: torch.softmax(torch.log_softmax(x, -1), -1),
        lambda x: torch.softmax(x, -1), "f32[4,6]", "the shift cancels"),
    Identity("softmin", lambda x: F.softmin(x, -1),
        lambda x: torch.softmax(-x, -1), "f32[4,6]", "the definition"),
    Identity("softmax with temperature", lambda x: torch.softmax(x / 4, -1),
        lambda x: torch.softmax(0.5 * x * 0.5, -1), "f32[4,6]", "a quarter"),
    Identity("powers of softmax",
        lambda x: (lambda p: p * p / (p * p).sum(-1, keepdim=True))(torch.softmax(x, -1)),
        lambda x: torch.softmax(2 * x, -1), "f32[4,6]", "sharpened"),
    Identity("softmax sums to one", lambda x: torch.softmax(x, -1).sum(-1),
        lambda x: torch.ones(4, dtype=x.dtype), "f32[4,6]", "the definition"),
    Identity("softmax in blocks", lambda x: torch.softmax(x, -1),
        lambda x: torch.cat([x[:, :2].exp(), x[:, 2:].exp()], 1) / (x[:, :2].exp().sum(1,
            keepdim=True) + x[:, 2:].exp().sum(1, keepdim=True)),
        "f32[4,6]", "a sum in two parts"),
    Identity("log_softmax by log-sum-exp", lambda x: torch.log_softmax(x, -1),
        lambda x: x - torch.logsumexp(x, -1, keepdim=True), "f32[4,6]", "the definition"),
    Identity("log_softmax by a logarithm", lambda x: torch.log_softmax(x, -1),
        lambda x: torch.log(torch.softmax(x, -1)), "f32[4,6]", "the definition"),
    Identity("log_softmax twice", lambda x: torch.log_softmax(torch.log_softmax(x, -1), -1),
        lambda x: torch.log_softmax(x, -1), "f32[4,6]", "its exponentials sum to one"),
    Identity("log_softmax by hand", lambda x: torch.log_softmax(x, -1),
        lambda x: (lambda y: y - y.exp().sum(-1, keepdim=True).log())(x - x.amax(-1, keepdim=True)),
        "f32[4,6]", "the shift cancels"),
    Identity("logsumexp by hand", lambda x: torch.logsumexp(x, -1),
        lambda x: x.exp().sum(-1).log(), "f32[4,6]", "the definition"),
    Identity("logsumexp shifted", lambda x: torch.logsumexp(x, -1),
        lambda x: (x - x.amax(-1, keepdim=True)).exp().sum(-1).log() + x.amax(-1), "f32[4,6]",
        "the shift comes out"),
    Identity("logsumexp of a shift", lambda x, c: torch.logsumexp(x + c[:, None], -1),
        lambda x, c: c + torch.logsumexp(x, -1), "f32[4,6],f32[4]", "the shift comes out"),
    Identity("logsumexp in two parts", lambda x: torch.logsumexp(x, -1),
        lambda x: torch.logaddexp(torch.logsumexp(x[:, :2], -1), torch.logsumexp(x[:, 2:], -1)), "f32[4,6]",
        "a sum in two parts"),
    Identity("logsumexp of logsumexps", lambda x: torch.logsumexp(x, (1, 2)),
        lambda x: torch.logsumexp(torch.logsumexp(x, 2), 1), "f32[2,3,4]", "a sum of sums"),
    Identity("logmeanexp", lambda x: torch.logsumexp(x, -1) - math.log(6),
        lambda x: x.exp().mean(-1).log(), "f32[4,6]", "a division is a difference"),
    Identity("entropy by log-sum-exp", lambda x: -(torch.softmax(x, -1) * torch.log_softmax(x, -1)).sum(-1),
        lambda x: torch.logsumexp(x, -1) - (torch.softmax(x, -1) * x).sum(-1), "f32[4,6]",
        "weights sum to one"),
    Identity("divergence of two softmaxes",
        lambda x, y: (torch.softmax(x, -1) * (torch.log_softmax(x, -1) - torch.log_softmax(y, -1))).sum(-1),
        lambda x, y: (torch.softmax(x, -1) * (x - y)).sum(-1) - torch.logsumexp(x, -1) +
            torch.logsumexp(y, -1),
        "f32[4,6],f32[4,6]", "weights sum to one"),
    Identity("cross entropy by gather", lambda x, t: F.cross_entropy(x, t),
        lambda x, t: -torch.log_softmax(x, 1).gather(1, t[:, None]).mean(), "f32[4,6],i64[4]",
        "the definition", below=(0, 6)),
    Identity("cross entropy by a gather or a mask", cross_entropy_by_gather, cross_entropy_by_mask,
        "f32[4,6],i64[4]", "one term is left; a gather has no class -100", below=(0, 6)),
    Identity("cross entropy by one-hot", lambda x, t: F.cross_entropy(x, t, reduction="none"),
        lambda x, t: -(F.one_hot(t, 6) * torch.log_softmax(x, 1)).sum(1), "f32[4,6],i64[4]",
        "one term is left", below=(0, 6)),
    Identity("cross entropy by nll_loss", lambda x, t: F.cross_entropy(x, t),
        lambda x, t: F.nll_loss(F.log_softmax(x, 1), t), "f32[4,6],i64[4]", "the definition", below=(0, 6)),
    Identity("cross entropy of a shift", lambda x, c, t: F.cross_entropy(x + c, t),
        lambda x, c, t: F.cross_entropy(x, t), "f32[4,6],f32[4,1],i64[4]", "the shift cancels",
        below=(0, 0, 6)),
    Identity("cross entropy ignoring a class", lambda x, t: F.cross_entropy(x, t, ignore_index=0),
        cross_entropy_ignoring, "f32[4,6],i64[4]", "the mean over the rows that count", below=(0, 6)),
    Identity("cross entropy with soft targets", lambda x, p: F.cross_entropy(x, p),
        lambda x, p: (p.sum(1) * torch.logsumexp(x, 1) - (p * x).sum(1)).mean(), "f32[4,6],f32[4,6]",
        "sums distribute"),
    Identity("label smoothing",
        lambda x, t: F.cross_entropy(x, 0.75 * F.one_hot(t, 6) + 0.25 / 6),
        lambda x, t: 0.75 * cross_entropy_by_gather(x, t) - 0.25 * torch.log_softmax(x, 1).mean(),
        "f32[4,6],i64[4]", "sums distribute", below=(0, 6)),
    Identity("binary cross entropy with logits",
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        lambda x, y: torch.log1p(torch.exp(x)) - x * y, "f32[6],f32[6]",
        "log(1+exp(-x)) is log(1+exp(x)) - x"),
    Identity("binary cross entropy by probabilities",
        lambda x, y: -(y * torch.log(torch.sigmoid(x)) + (1 - y) * torch.log(1 - torch.sigmoid(x))),
        lambda x, y: -(y * F.logsigmoid(x) + (1 - y) * F.logsigmoid(-x)), "f32[6],f32[6]",
        "one minus a sigmoid is one"),
    Identity("two-class cross entropy",
        lambda x, t: torch.log1p(torch.exp(-torch.stack([-x, x], 1).gather(1, t[:, None])))[:, 0],
        lambda x, t: torch.where(t == 1, torch.log1p(torch.exp(-x)), torch.log1p(torch.exp(x))),
        "f32[4],i64[4]", "a logistic loss", below=(0, 2)),
)
