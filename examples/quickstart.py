"""The shortest use of superopt: decorate a function, call it, ask what was found."""

import torch

from superopt import superoptimize


@superoptimize
def rmsnorm_linear(x, g, w):
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), g) @ w


if __name__ == "__main__":
    x, g, w = torch.randn(8, 1024), torch.randn(1024), torch.randn(1024, 1536)
    y = rmsnorm_linear(x, g, w)  # first call: search, prove, compile, cache
    print(y.shape)
    print(superoptimize.explain(rmsnorm_linear, x, g, w))
