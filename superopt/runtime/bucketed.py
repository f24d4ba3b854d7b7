"""Several compiled programs behind one rule: each call runs the one that its sizes ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from superopt.errors import CacheCorrupt
from superopt.mugraph.dispatch import ORIGINAL, Dispatch, within
from superopt.runtime.kernels import Kernels
from superopt.runtime.plan import Plan

Chosen = tuple[Kernels, Mapping[str, int]]
Run = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]


def fits(rule: Dispatch, plans: Sequence[Plan]) -> None:
    """Raises CacheCorrupt when a rule and the plans of its programs do not fit each other."""
    own = [tuple((s, low, high) for s, _, _, _, low, high in p.symbols) for p in plans]
    names = {tuple(name for name, _, _ in ranges) for ranges in (*own, rule.domain)}
    if len(names) > 1 or not all(
        b.program == ORIGINAL or (b.program in range(len(own)) and within(b.guard, own[b.program]))
        for b in rule.buckets
    ):
        raise CacheCorrupt(
            "a dispatch rule is of other programs", "dispatch.json", "the entry is rebuilt"
        )


class Bucketed:
    """The programs of one piece, of which each serves some sizes.

    All have the same inputs, outputs and symbols. A call reads the sizes once, looks its bucket up
    (a binary search for each symbol), and compiles nothing. Raises CacheCorrupt when the rule and the
    programs do not fit each other.
    """

    def __init__(self, rule: Dispatch, programs: Sequence[Kernels]) -> None:
        self.rule, self.programs = rule, tuple(programs)
        fits(rule, [k.plan for k in programs])
        # Each program knows the range that it was compiled for; sizes are read for the whole domain.
        domain = {name: (low, high) for name, low, high in rule.domain}
        self.plan = replace(
            programs[0].plan,
            symbols=tuple((*s[:4], *domain[s[0]]) for s in programs[0].plan.symbols),
        )

    def chosen(self, tensors: Sequence[torch.Tensor], eager_may_win: bool) -> Chosen | None:
        """The program that serves these tensors, and their sizes; None where the original does."""
        sizes = self.plan.sizes(tensors)
        bucket = self.rule.chooser(self.rule.buckets)(sizes)
        if bucket.program == ORIGINAL or (bucket.slower and eager_may_win):
            return None
        return self.programs[bucket.program], sizes

    def runner(self, original: Run, eager_may_win: bool) -> Run:
        """The call that each piece of a program makes.

        original: runs the piece in PyTorch; it serves the buckets that no program was admitted for,
        and, if ``eager_may_win``, those where it was timed to be faster.
        """

        def beside(tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> Sequence:
            return original(tensors)

        table = [
            beside
            if b.program == ORIGINAL or (b.slower and eager_may_win)
            else self.programs[b.program].at
            for b in self.rule.buckets
        ]
        read, choose = self.plan.sizes, self.rule.chooser(table)
        only = table[0] if len(table) == 1 else None

        def run(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            sizes = read(tensors)  # raises for sizes outside the domain
            return (only or choose(sizes))(tensors, sizes)

        return run
