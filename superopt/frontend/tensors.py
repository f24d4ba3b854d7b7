"""A tensor on its way from PyTorch to the graph: a node, and what its dimensions are made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from superopt.mugraph.axes import Axis, Size, Sym
from superopt.mugraph.dtypes import compute_dtype, from_torch, is_float
from superopt.mugraph.graph import Builder, Const, Dims, Index, Input, View
from superopt.mugraph.rewrite import read_at


class NotSupported(Exception):
    """This operator, as it is used here, is left to PyTorch; the text says why."""


@dataclass(frozen=True)
class Tensor:
    """A value of the PyTorch program.

    node: its value in the graph, computed in the compute dtype; dims: one tuple of axes per torch
    dimension, row-major (none for size 1; an axis that the node lacks is broadcast), no axis twice;
    dtype: the dtype that the tensor has in PyTorch; exact: whether that dtype holds every element
    as it is (an input, or a value that was rounded).
    """

    node: int
    dims: Dims
    dtype: torch.dtype
    exact: bool = False

    def spread(self, dims: Dims) -> Tensor:
        """A scalar with the dimensions of another tensor."""
        return replace(self, dims=dims)


class Tensors:
    """Operations on ``Tensor`` that arrange axes; they build no arithmetic of their own."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self._weights: dict[int, int] = {}

    def size(self, dim: tuple[Axis, ...]) -> int:
        """Elements along a dimension; NotSupported when it is symbolic."""
        out = 1
        for a in dim:
            if isinstance(a.size, Sym):
                raise NotSupported("this operator needs a size that is known when it is compiled")
            out *= a.size
        return out

    def axis(self, size: Size) -> tuple[Axis, ...]:
        """A dimension of one fresh axis; none for size 1."""
        return () if size == 1 else (self.b.fresh_axis(size),)

    def weight(self, i: int) -> int:
        """How many computed nodes lie under a value (renaming copies them)."""
        if i not in self._weights:
            node = self.b.nodes[i]
            own = 0 if isinstance(node, Input | Const | View) else 1
            self._weights[i] = own + min(sum(self.weight(a) for a in node.args), 1 << 20)
        return self._weights[i]

    def rename(self, t: Tensor, names: dict[Axis, tuple[Axis, ...]]) -> Tensor:
        """The tensor with axes replaced; an axis may be replaced by several (a row-major split)."""
        names = {a: to for a, to in names.items() if to != (a,)}
        if not names:
            return t
        reading: dict[Axis, Index] = {}
        for axis, to in names.items():
            terms, stride = [], 1
            for a in reversed(to):
                terms.append((a, stride))
                stride *= a.size if isinstance(a.size, int) else 1
            reading[axis] = Index(tuple(reversed(terms)))
        node = read_at(self.b, t.node, reading)
        dims = tuple(tuple(x for a in d for x in names.get(a, (a,))) for d in t.dims)
        return replace(t, node=node, dims=dims)

    def distinct(self, t: Tensor, used: set[Axis], keep: set[Axis] = frozenset()) -> Tensor:
        """The tensor with axes that occur in ``used`` (and not in ``keep``) renamed apart."""
        here = {a for d in t.dims for a in d}
        clash = (here & used) - keep
        return self.rename(
            t, {a: (self.b.fresh_axis(a.size),) for a in sorted(clash, key=lambda a: a.name)}
        )

    def common_factors(self, *dims: tuple[Axis, ...]) -> list[int] | None:
        """The sizes of the coarsest common row-major refinement of dims, None if there is none."""
        if any(isinstance(a.size, Sym) for dim in dims for a in dim):
            return None
        cuts: set[int] = set()
        for dim in dims:
            stride = 1
            for a in reversed(dim):
                stride *= a.size
                cuts.add(stride)
        bounds = [1, *sorted(cuts)]
        if any(hi % lo for lo, hi in itertools.pairwise(bounds)):
            return None
        return [hi // lo for lo, hi in itertools.pairwise(bounds)][::-1]

    def refine(self, t: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """The tensor with the axes of one dim split so that they have these sizes."""
        todo = list(sizes)
        names: dict[Axis, tuple[Axis, ...]] = {}
        for a in t.dims[dim]:
            parts: list[Axis] = []
            rest = a.size
            while rest != 1:
                n = todo.pop(0)
                parts.append(Axis(a.name, a.size) if n == a.size else self.b.fresh_axis(n))
                rest //= n
            names[a] = tuple(parts)
        return self.rename(t, names)

    def flatten_dim(
        self, t: Tensor, dim: int, at: Index | None = None, fresh: tuple[Axis, ...] = ()
    ) -> Tensor:
        """One dim read through a flat index: ``at`` is the flat position over the axes ``fresh``."""
        axes = t.dims[dim]
        flat = at or Index(((fresh[0], 1),))
        if len(axes) == 1:
            reading = {axes[0]: flat}
        else:
            plain = (flat.div, flat.mod, flat.lo, flat.hi) == (1, None, None, None)
            if not plain:
                raise NotSupported("a clamped read of a merged dimension")
            reading, inner = {}, 1
            for k, a in enumerate(reversed(axes)):
                outermost = k == len(axes) - 1
                reading[a] = Index(flat.terms, flat.offset, inner, None if outermost else a.size)
                inner *= a.size
        node = read_at(self.b, t.node, reading)
        return replace(t, node=node, dims=(*t.dims[:dim], tuple(fresh), *t.dims[dim + 1 :]))

    def single(self, t: Tensor, dim: int) -> Tensor:
        """The tensor with one dim made of a single axis."""
        if len(t.dims[dim]) <= 1:
            return t
        return self.flatten_dim(t, dim, fresh=self.axis(self.size(t.dims[dim])))

    def unify(self, ts: Sequence[Tensor], pairs: Sequence[Sequence[int | None]]) -> list[Tensor]:
        """Renames so that dims that meet share their axes; ``pairs``: per meeting, a dim per tensor.

        A None in a meeting, or a dim of size 1, takes no part. Lighter values are renamed to
        heavier ones, since renaming a computed value computes it under other names; one that was
        expanded along a dim does not depend on it, and is renamed at no cost.
        """
        out = list(ts)
        for meeting in pairs:
            live = [(k, d) for k, d in enumerate(meeting) if d is not None and out[k].dims[d]]
            if len(live) < 2:
                continue
            self._refine_together(out, live)
            live.sort(
                key=lambda kd: (self._expanded(out[kd[0]], kd[1]), -self.weight(out[kd[0]].node))
            )
            lead, lead_dim = live[0]
            x = out[lead].dims[lead_dim]
            for k, d in live[1:]:
                y = out[k].dims[d]
                if x == y:
                    continue
                if [a.size for a in x] != [a.size for a in y]:
                    raise NotSupported(
                        f"dimensions of sizes {[a.size for a in x]} and {[a.size for a in y]} meet"
                    )
                out[k] = self.distinct(out[k], set(x), set(y))
                if set(y) & set(x):
                    out[k] = self.distinct(out[k], set(y))
                    y = out[k].dims[d]
                out[k] = self.rename(out[k], dict(zip(y, ((a,) for a in x), strict=True)))
        return out

    def _expanded(self, t: Tensor, dim: int) -> bool:
        """Whether the value is the same all along a dim."""
        return not {*t.dims[dim]} & {*self.b.axes(t.node)}

    def _refine_together(self, out: list[Tensor], live: Sequence[tuple[int, int]]) -> None:
        """Splits the axes of dims that meet until all have the same factors, or one axis each."""
        dims = [out[k].dims[d] for k, d in live]
        if len({tuple(a.size for a in dim) for dim in dims}) == 1:
            return
        sizes = self.common_factors(*dims)
        for k, d in live:
            out[k] = self.single(out[k], d) if sizes is None else self.refine(out[k], d, sizes)

    def broadcast(self, ts: Sequence[Tensor]) -> tuple[list[Tensor], Dims]:
        """Elementwise meeting by torch's broadcasting rules; returns the tensors and the result's dims."""
        rank = max(len(t.dims) for t in ts)
        meetings = [
            [d - (rank - len(t.dims)) if d >= rank - len(t.dims) else None for t in ts]
            for d in range(rank)
        ]
        out = self.unify(self._apart(ts), meetings)
        dims = []
        for meeting in meetings:
            own = [out[k].dims[d] for k, d in enumerate(meeting) if d is not None]
            dims.append(next((d for d in own if d), ()))
        return out, tuple(dims)

    def _apart(self, ts: Sequence[Tensor]) -> list[Tensor]:
        """The tensors, with no axis in two places counted from the last dim (``x[:, None] * x``)."""
        out = list(ts)
        place: dict[Axis, int] = {}
        for k in sorted(range(len(out)), key=lambda k: -self.weight(out[k].node)):
            here = {a: d - len(out[k].dims) for d, dim in enumerate(out[k].dims) for a in dim}
            out[k] = self.distinct(out[k], {a for a, p in here.items() if place.get(a, p) != p})
            place.update((a, p) for a, p in here.items() if a not in place)
        return out

    def reshape(self, t: Tensor, shape: Sequence[int]) -> Tensor:
        """A view with other dims: axes are split and merged; div and mod only where they must."""
        flat = [a for d in t.dims for a in d]
        if any(isinstance(a.size, Sym) for a in flat):
            return self._reshape_symbolic(t, shape)
        whole = math.prod(a.size for a in flat)
        target = tuple(self._placeholder(n) for n in shape)
        sizes = self.common_factors(tuple(flat), tuple(a for d in target for a in d))
        if sizes is None or whole != math.prod(shape):
            fresh = self.axis(whole)
            one = replace(t, dims=(tuple(flat),))
            axes = tuple(self.b.fresh_axis(n) for n in shape if n != 1)
            index, stride = [], 1
            for a in reversed(axes):
                index.append((a, stride))
                stride *= a.size
            moved = self.flatten_dim(one, 0, Index(tuple(reversed(index))), fresh or axes)
            rest = list(axes)
            return replace(
                t, node=moved.node, dims=tuple((rest.pop(0),) if n != 1 else () for n in shape)
            )
        one = self.refine(replace(t, dims=(tuple(flat),)), 0, sizes)
        return replace(t, node=one.node, dims=_group(list(one.dims[0]), shape))

    def reshape_dim(self, t: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """One dim split into several, the others as they are."""
        one = self.reshape(Tensor(t.node, (t.dims[dim],), t.dtype), sizes)
        return replace(t, node=one.node, dims=(*t.dims[:dim], *one.dims, *t.dims[dim + 1 :]))

    def unify_to(self, dims: Dims, t: Tensor) -> Tensor:
        """The tensor with its dims, counted from the last, renamed to the axes of ``dims``."""
        for own in range(len(t.dims)):
            x, y = dims[len(dims) - len(t.dims) + own], t.dims[own]
            if not y or x == y:
                continue
            if [a.size for a in x] != [a.size for a in y]:
                sizes = self.common_factors(x, y)
                if sizes != [a.size for a in x]:
                    raise NotSupported("a mask whose dimensions do not fit what it masks")
                t = self.refine(t, own, sizes)
                y = t.dims[own]
            t = self.rename(t, dict(zip(y, ((a,) for a in x), strict=True)))
        return t

    def diagonal(self, t: Tensor, first: int, second: int) -> Tensor:
        """The elements at which two dims of one size have the same index; the second dim goes."""
        t = self.single(self.single(t, first), second)
        x, y = t.dims[first], t.dims[second]
        if [a.size for a in x] != [a.size for a in y]:
            raise NotSupported("a diagonal of dimensions that differ in size")
        node = read_at(self.b, t.node, {y[0]: Index(((x[0], 1),))}) if y else t.node
        return replace(t, node=node, dims=t.dims[:second] + t.dims[second + 1 :])

    def _placeholder(self, n: int) -> tuple[Axis, ...]:
        return () if n == 1 else (Axis("?", n),)

    def _reshape_symbolic(self, t: Tensor, shape: Sequence[int]) -> Tensor:
        """Reshapes that leave every symbolic dim whole: the groups between them are reshaped."""
        flat = [a for d in t.dims for a in d]
        dims: list[tuple[Axis, ...]] = []
        names: dict[Axis, tuple[Axis, ...]] = {}
        for n in shape:
            if isinstance(n, int):
                group: list[Axis] = []
                have = 1
                while have < n:
                    if not flat or isinstance(flat[0].size, Sym):
                        raise NotSupported("a reshape that mixes a symbolic dimension with others")
                    a = flat.pop(0)
                    if n % (have * a.size) == 0:
                        group.append(a)
                        have *= a.size
                        continue
                    need = n // have
                    if a.size % need:
                        raise NotSupported("a reshape whose sizes do not divide")
                    outer, inner = self.b.fresh_axis(need), self.b.fresh_axis(a.size // need)
                    names[a] = (outer, inner)
                    group.append(outer)
                    have *= need
                    flat.insert(0, inner)
                dims.append(tuple(group))
            elif flat and isinstance(flat[0].size, Sym):
                dims.append((flat.pop(0),))
            else:
                raise NotSupported("a reshape that mixes a symbolic dimension with others")
        if flat:
            raise NotSupported("a reshape that drops a symbolic dimension")
        final: dict[Axis, tuple[Axis, ...]] = {}
        for a, parts in names.items():
            out = list(parts)
            while any(p in names for p in out):
                out = [x for p in out for x in names.get(p, (p,))]
            final[a] = tuple(out)
        moved = self.rename(
            t, {a: p for a, p in final.items() if a in {x for d in t.dims for x in d}}
        )
        return replace(t, node=moved.node, dims=tuple(dims))


def _group(axes: list[Axis], shape: Sequence[int]) -> Dims:
    dims = []
    for n in shape:
        dim: list[Axis] = []
        have = 1
        while have < n:
            dim.append(axes.pop(0))
            have *= dim[-1].size
        dims.append(tuple(dim))
    return tuple(dims)


def compute_name(dtype: torch.dtype) -> str:
    """The dtype name in which a tensor of this torch dtype is computed."""
    return compute_dtype(from_torch(dtype).name)


def floating(dtype: torch.dtype) -> bool:
    """Whether a torch dtype is one of the graph's float types."""
    return is_float(from_torch(dtype).name)
