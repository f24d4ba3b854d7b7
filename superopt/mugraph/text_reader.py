"""Reads the textual form by recursive descent: the graph, its nodes, its kernels."""

from __future__ import annotations

from superopt.errors import closest
from superopt.mugraph.axes import Axis, Size, Stride, Sym, sort_axes
from superopt.mugraph.graph import (
    Const,
    Gather,
    Graph,
    Index,
    Input,
    Iota,
    Map,
    Node,
    Output,
    Reduce,
    SizeOf,
    View,
)
from superopt.mugraph.placement import Carry, Kernel, Lane, Placement, Split
from superopt.mugraph.scalars import REDUCTIONS, SCALARS, Arg
from superopt.mugraph.text_tokens import Cursor

_DEPTH = 64  # nesting of a factor


class Reader(Cursor):
    """A parser over the tokens of a text; each method reads one construct, or raises ParseError."""

    # -- the graph

    def graph(self) -> Graph:
        """``graph NAME``, declarations, nodes in order, outputs."""
        self.word("graph")
        name = self.name("the graph's name")
        self.end_line()
        while self.has("word", "axis") or self.has("word", "symbol"):
            self.declaration()
        nodes: list[Node] = []
        while self.has("node"):
            token = self.here
            if self.ref() != len(nodes):
                self.fail(f"node %{len(nodes)}", token)
            self.mark("=")
            nodes.append(self.node())
            self.end_line()
        outputs: list[Output] = []
        while self.skip("word", "return"):
            label, dims = self.string("the output's name in quotes"), self.dims()
            order: list[int] = []
            if self.skip("word", "order"):
                while self.has("int"):
                    order.append(self.integer("a dim"))
            self.mark("=")
            outputs.append(Output(label, self.ref(), dims, tuple(order)))
            self.end_line()
        if not outputs:
            self.fail("a node or 'return'")
        return Graph(name, tuple(nodes), tuple(outputs))

    def declaration(self) -> None:
        if self.skip("word", "symbol"):
            name = self.name("a symbol's name")
            self.mark("=")
            self.symbol(name)
        else:
            self.word("axis")
            token = self.here
            name = self.name("an axis name")
            if name in self.axes:
                self.fail("an axis that is not declared yet", token)
            self.mark("=")
            size: Size
            if self.has("int"):
                size = self.integer("a size")
            else:
                label = self.name("a size, or a symbol and its range")
                self.mark(":")
                size = self.symbol(label)
            self.axes[name] = Axis(name, size)
        self.end_line()

    def symbol(self, name: str) -> Sym:
        token = self.here
        low = self.integer("the least size")
        self.mark("..")
        sym = Sym(name, low, self.integer("the largest size"))
        if self.symbols.setdefault(name, sym) != sym:
            self.fail(f"the range of symbol {name!r} given before, {self.symbols[name]}", token)
        return sym

    def node(self) -> Node:
        token = self.take("word", "an operator")
        match token.text:
            case "input":
                return self.input()
            case "const":
                value: float | int | bool
                if self.has("word", "true") or self.has("word", "false"):
                    value = self.take("word", "a literal").text == "true"
                else:
                    value = self.number()
                return Const((), self.dtype(), value)
            case "size_of":
                axis = self.axis()
                axes, dtype = self.kind()
                return SizeOf(axes, dtype, axis)
            case "iota":
                return Iota(*self.kind())
            case "reduce":
                op = self.take("word", "a reduction")
                if op.text not in REDUCTIONS:
                    self.fail(f"a reduction ({closest(op.text, REDUCTIONS)})", op)
                self.mark("(")
                over, arg = self.axis_list(")"), self.ref()
                return Reduce(*self.kind(), op.text, arg, over)
            case "view":
                arg = self.ref()
                index: list[tuple[Axis, Index]] = []
                self.mark("{")
                while not self.skip("mark", "}"):
                    if index:
                        self.mark(",")
                    axis = self.axis()
                    self.mark(":=")
                    index.append((axis, self.index()))
                return View(*self.kind(), arg, tuple(index))
            case "gather":
                arg = self.ref()
                self.word("along")
                along = self.axis()
                self.word("at")
                at = self.ref()
                return Gather(*self.kind(), arg, along, at)
        if token.text not in SCALARS:
            self.fail(f"an operator ({closest(token.text, SCALARS)})", token)
        args: list[int] = []
        while self.has("node"):
            args.append(self.ref())
        return Map(*self.kind(), token.text, tuple(args))

    def kind(self) -> tuple[tuple[Axis, ...], str]:
        """``: [axes] dtype``, the type of a node."""
        self.mark(":")
        self.mark("[")
        return self.axis_list("]"), self.dtype()

    def input(self) -> Input:
        name, dims, dtype = self.string("the input's name in quotes"), self.dims(), self.dtype()
        self.word("strides")
        self.mark("(")
        strides: list[Stride] = []
        while not self.skip("mark", ")"):
            if strides:
                self.mark(",")
            coef, syms = self.integer("a stride"), []
            while self.skip("mark", "*"):
                token = self.here
                label = self.name("a symbol")
                if label not in self.symbols:
                    self.fail(f"a declared symbol ({closest(label, self.symbols)})", token)
                syms.append(self.symbols[label])
            strides.append(Stride(coef, tuple(syms)))
        axes = sort_axes({a for dim in dims for a in dim})
        return Input(axes, dtype, name, dims, tuple(strides))

    def index(self) -> Index:
        """``(2*n - m + 1) // 3 % 4 clamp 0..9``, each part but the sum optional."""
        inside = self.skip("mark", "(")
        terms: list[tuple[Axis, int]] = []
        offset, first = 0, True
        while first or self.has("mark", "+") or self.has("mark", "-"):
            sign = -1 if self.skip("mark", "-") else 1
            if sign == 1 and not first:
                self.mark("+")
            first = False
            if self.has("int"):
                value = sign * self.integer("a number")
                if self.skip("mark", "*"):
                    terms.append((self.axis(), value))
                else:
                    offset += value
            else:
                terms.append((self.axis(), sign))
        if inside:
            self.mark(")")
        div = self.integer("a divisor") if self.skip("mark", "//") else 1
        mod = self.integer("a modulus") if self.skip("mark", "%") else None
        low = high = None
        if self.skip("word", "clamp"):
            low = None if self.has("mark", "..") else self.integer("the least index, or '..'")
            self.mark("..")
            if self.has("int") or self.has("mark", "-"):
                high = self.integer("the largest index")
        return Index(tuple(terms), offset, div, mod, low, high)

    # -- the kernels

    def kernels(self) -> tuple[Kernel, ...]:
        """``kernel NAME -> %ids`` with its placement and carries, any number of times."""
        out: list[Kernel] = []
        while self.skip("word", "kernel"):
            name = self.name("the kernel's name")
            self.mark("->")
            outputs = []
            while self.has("node"):
                outputs.append(self.ref())
            self.end_line()
            grid = self.splits("grid")
            loop = self.splits("loop")
            lane = self.lane()
            carries: list[Carry] = []
            while self.skip("word", "carry"):
                moved = self.ref()
                self.word("with")
                stat = self.ref()
                self.word("by")
                factor = self.term(0)
                rank = self.integer("a rank") if self.skip("word", "rank") else 0
                carries.append(Carry(moved, stat, factor, rank))
                self.end_line()
            out.append(Kernel(name, tuple(outputs), Placement(grid, loop, lane), tuple(carries)))
        return tuple(out)

    def splits(self, level: str) -> tuple[Split, ...]:
        out: list[Split] = []
        if self.skip("word", level):
            while not self.has("line"):
                axis = self.axis()
                self.mark(":")
                out.append(Split(axis, self.integer("a tile size")))
            self.end_line()
        return tuple(out)

    def lane(self) -> Lane:
        if not self.skip("word", "lane"):
            return Lane()
        sizes = []
        for part in ("vector", "rows", "cols", "unroll"):
            self.word(part)
            sizes.append(self.integer(f"the number of {part}"))
        self.end_line()
        return Lane(*sizes)

    def term(self, depth: int) -> object:
        """A factor: ``row(term,...)``, ``$0``, ``$1`` or a number."""
        if depth > _DEPTH:
            self.fail(f"a factor at most {_DEPTH} deep")
        if self.has("arg"):
            return Arg(int(self.take("arg", "an argument").text[1:]))
        if not self.has("word") or self.has("word", "inf"):
            return self.number()
        row = self.take("word", "a scalar function")
        if row.text not in SCALARS:
            self.fail(f"a scalar function ({closest(row.text, SCALARS)})", row)
        self.mark("(")
        args: list[object] = []
        while not self.skip("mark", ")"):
            if args:
                self.mark(",")
            args.append(self.term(depth + 1))
        return (row.text, *args)
