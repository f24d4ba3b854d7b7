"""What capture does to an exported graph before it is cut: contexts, mutation and aliases.

Export keeps in-place operators, and contexts such as ``no_grad`` as nested graphs. A graph over
named axes knows values only, so contexts that change nothing are inlined, writes to intermediate
values become new values, and writes to what the caller can see are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from superopt.errors import MutatesInput
from superopt.frontend.where import location

_HARMLESS = ("detach_", "requires_grad_")
_RETURNS_ITS_ARGUMENT = ("dropout", "feature_dropout", "alpha_dropout", "lift_fresh", "alias")
"""Operators that may return their argument itself, though neither schema nor fake tensor says so."""


def op_name(node: fx.Node) -> str:
    """The name of an operator without namespace and overload: ``aten.add.Tensor`` is ``add``.

    The underscore of an in-place form stays: ``add_`` is another operator.
    """
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def inline_contexts(gm: fx.GraphModule) -> None:
    """Replaces calls under ``no_grad`` and disabled autocast by the operators inside, in place."""
    again = True
    while again:
        again = False
        for node in list(gm.graph.nodes):
            inner = _context(gm, node)
            if inner is None:
                continue
            body, args = inner
            _inline(gm, node, body, args)
            again = True


def _context(gm: fx.GraphModule, node: fx.Node) -> tuple[fx.GraphModule, Sequence[Any]] | None:
    if node.op != "call_function":
        return None
    name = op_name(node)
    if name == "wrap_with_set_grad_enabled":
        skip = 1
    elif name == "wrap_with_autocast" and node.args[2] is False:
        skip = 4
    else:
        return None
    body = getattr(gm, str(getattr(node.args[skip], "target", "")), None)
    return (body, node.args[skip + 1 :]) if isinstance(body, fx.GraphModule) else None


def _inline(gm: fx.GraphModule, node: fx.Node, body: fx.GraphModule, args: Sequence[Any]) -> None:
    holders = [n for n in body.graph.nodes if n.op == "placeholder"]
    at = dict(zip(holders, args, strict=True))
    for name, child in body.named_children():
        if not hasattr(gm, name):
            gm.add_module(name, child)
    with gm.graph.inserting_before(node):
        result: Any = gm.graph.graph_copy(body.graph, at)
    for user in list(node.users):
        if op_name(user) == "getitem":
            user.replace_all_uses_with(result[user.args[1]])
            gm.graph.erase_node(user)
    if node.users:
        node.replace_all_uses_with(result)
    gm.graph.erase_node(node)


def mutating(graph: fx.Graph) -> list[fx.Node]:
    """The operators that write to one of their arguments."""
    return [
        n
        for n in graph.nodes
        if n.op == "call_function"
        and isinstance(n.target, torch._ops.OpOverload)
        and n.target._schema.is_mutable
        and op_name(n) not in _HARMLESS
    ]


def refuse_writes(graph: fx.Graph, writers: Iterable[fx.Node]) -> None:
    """Raises MutatesInput when an operator writes to memory of an argument, parameter or buffer."""
    owner = {_memory(n): n for n in graph.nodes if n.op == "placeholder" and _memory(n) is not None}
    for node in writers:
        schema = node.target._schema  # type: ignore[union-attr]
        for argument, value in zip(schema.arguments, node.args, strict=False):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            written = owner.get(_memory(value))
            if written is not None:
                raise MutatesInput(
                    f"{op_name(node)} writes to {written.target}, which the caller can see",
                    location(node),
                )


def alias_chain(node: Any, placeholders: Sequence[fx.Node]) -> list[fx.Node] | None:
    """The operators through which a value is, or is a view of, one of the inputs; None if it is not."""
    inputs = {_memory(n) for n in placeholders} - {None}
    through: list[fx.Node] = []
    shared = False
    while isinstance(node, fx.Node):
        if node in placeholders:
            return through
        shared = shared or _memory(node) in inputs
        own = op_name(node) in _RETURNS_ITS_ARGUMENT or op_name(node) == "getitem"
        if not (shared or own):
            return None
        through.append(node)
        node = node.args[0] if node.args else None
    return through if shared else None


def entangled_views(outputs: Sequence[Any]) -> set[fx.Node]:
    """The views through which two different outputs reach the same elements.

    They run in PyTorch, on what a kernel returned, so that the outputs alias as they did.
    """
    found: set[fx.Node] = set()
    nodes = [o for o in dict.fromkeys(outputs) if _memory(o) is not None]
    for k, a in enumerate(nodes):
        for b in nodes[:k]:
            if _memory(a) == _memory(b) and _overlap(a.meta["val"], b.meta["val"]):
                found.update(_views(a), _views(b))
    return found


def _views(node: fx.Node) -> Iterator[fx.Node]:
    """The chain of views from the operator that made the memory of ``node`` (excluded) to it."""
    while isinstance(node, fx.Node) and node.op == "call_function" and node.args:
        source: Any = node.args[0]
        if not isinstance(source, fx.Node) or not _of_one_memory(node, source):
            return
        yield node
        node = source


def _of_one_memory(node: fx.Node, source: fx.Node) -> bool:
    parts = source.meta.get("val")
    if isinstance(parts, list | tuple):  # a getitem of a split: the split reads its own argument
        return bool(source.args) and _memory(node) == _memory(source.args[0])
    own = node.meta.get("val")
    if isinstance(own, list | tuple):
        return bool(own) and _storage(own[0]) == _memory(source)
    return _memory(node) == _memory(source)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two strided views of one memory share an element; large ones are taken to."""
    if any(not isinstance(n, int) for t in (a, b) for n in (*t.shape, *t.stride())):
        return True
    spans = [_span(t) for t in (a, b)]
    if spans[0].stop <= spans[1].start or spans[1].stop <= spans[0].start:
        return False
    most = max(s.stop for s in spans)
    if most > _EXACT:
        return True
    cells = torch.arange(most)
    at = [cells.as_strided(t.shape, t.stride(), int(t.storage_offset())) for t in (a, b)]
    return bool(torch.isin(at[0].reshape(-1), at[1].reshape(-1)).any())


_EXACT = 1 << 22


def _span(t: torch.Tensor) -> range:
    start = int(t.storage_offset())
    return range(
        start, start + 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    )


def _memory(node: Any) -> Any:
    """What tells the storage of a traced value apart from others, None when it has none."""
    return _storage(node.meta.get("val")) if isinstance(node, fx.Node) else None


def _storage(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return None
    return value.untyped_storage()._cdata
