"""The text that ``superoptimize.explain`` and ``superopt explain`` print."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from superopt.mugraph.dispatch import ORIGINAL, Dispatch, guard_text


def explain(result: Any) -> str:
    """A pipeline ``Result`` as text: the uGraph, the certificate, the times, what was left out."""
    blocks = [_header(result)]
    pieces = [p for p in result.pieces if p is not None]
    for n, piece in enumerate(pieces):
        title = "uGraph" if len(pieces) == 1 else f"uGraph of piece {n + 1} of {len(pieces)}"
        if (rule := getattr(piece, "rule", None)) is None:
            blocks.append(_block(title, str(piece.mugraph).splitlines()))
        else:
            blocks.append(_block("buckets", _bucket_lines(rule, piece)))
            for k, graph in enumerate(piece.mugraphs):
                blocks.append(_block(f"{title}, program {k}", str(graph).splitlines()))
        lines = certificate_lines(piece.certificate)
        if (entry := getattr(piece, "entry", None)) is not None:
            lines.append(f"check it again: superopt verify {shlex.quote(str(entry.path))}")
        blocks.append(_block("certificate", lines))
        blocks.append(_block("search", _search_lines(piece.meta)))
    if result.boundaries:
        blocks.append(
            _block(
                "left to PyTorch", [f"{b.op} at {b.where}: {b.reason}" for b in result.boundaries]
            )
        )
    return "\n\n".join(blocks)


def as_json(result: Any) -> dict[str, Any]:
    """What ``superopt explain --json`` prints, as plain data."""
    return {
        "winner": result.winner,
        "cache": result.cache,
        "states": result.states,
        "timings": dict(result.timings),
        "mugraphs": [
            str(m)
            for p in getattr(result, "pieces", ())
            if p is not None
            for m in getattr(p, "mugraphs", None) or (p.mugraph,)
        ]
        or ([str(result.mugraph)] if result.mugraph is not None else []),
        "certificates": [p.certificate for p in getattr(result, "pieces", ()) if p is not None]
        or ([result.certificate] if result.certificate is not None else []),
        "artefacts": [
            str(p.entry.path) for p in getattr(result, "pieces", ()) if hasattr(p, "entry")
        ],
        "rejected": [
            list(p.meta.get("rejected", ())) for p in getattr(result, "pieces", ()) if p is not None
        ],
        "boundaries": [
            {"op": str(b.op), "where": str(b.where), "reason": str(b.reason)}
            for b in result.boundaries
        ],
    }


def why(result: Any) -> str:
    """The best rejected alternatives of each piece, and the rule by which each lost, as text."""
    blocks = []
    for piece in (p for p in result.pieces if p is not None):
        meta = piece.meta
        kept = _alternative(meta["kept"])
        rows = _alike(meta.get("rejected", ()))
        blocks.append(_block("kept", [kept]))
        blocks.append(_block("rejected", rows or ["nothing: there was no other candidate"]))
    return "\n\n".join(blocks)


def why_nothing(found: Mapping[str, Any]) -> str:
    """Why no kernel was found: the rule that removed the last candidate, and the candidates."""
    blocks = [_block("the last candidate was removed by", [str(found["last"])])]
    if rows := _alike(found["rejected"]):
        blocks.append(_block("rejected", rows))
    return "\n\n".join(blocks)


def _alike(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each alternative; those that differ in what a line does not show (lanes) are one."""
    lines = Counter(_alternative(r) for r in rows)
    return [line + f" ({n} such)" * (n > 1) for line, n in lines.items()]


def _alternative(row: Mapping[str, Any]) -> str:
    """One line: the rule, kernels, predicted and measured time, how it is split, the detail."""
    out = f"{row['rule']}: " if row["rule"] else ""
    kernels = row["kernels"]
    out += f"{kernels} kernel{'s' * (kernels != 1)}, predicted {row['predicted_s'] * 1e6:.1f} us"
    if row.get("measured_s") is not None:
        out += f", measured {row['measured_s'] * 1e6:.1f} us"
    out += f", {row['plan']}" if row["plan"] else ""
    return out + (f" ({row['detail']})" if row["detail"] else "")


def _header(result: Any) -> str:
    t = result.timings
    lines = [f"winner: {result.winner} ({result.cache} cache)"]
    for name, key in (
        ("generated kernels", "generated_median_s"),
        ("eager PyTorch", "eager_median_s"),
        ("torch.compile", "inductor_median_s"),
    ):
        if t.get(key):
            lines.append(f"  {name:18} {t[key] * 1e6:10.1f} us (median of interleaved runs)")
    spent = [
        f"{k.removesuffix('_s')} {t[k]:.2f} s"
        for k in ("search_s", "verify_s", "compile_s")
        if k in t
    ]
    return "\n".join([*lines, "  spent: " + ", ".join(spent)])


def _bucket_lines(rule: Dispatch, piece: Any) -> list[str]:
    """The domain, and for each bucket what serves it, with the times that decided."""
    out = [
        f"{r['symbol']} is {', '.join(r['read'])}: from {r['low']} to {r['high']}"
        for r in piece.certificate.get("domain", [])
    ]
    for bucket, facts in zip(rule.buckets, piece.meta["buckets"], strict=True):
        line = f"{guard_text(bucket.guard)}: "
        if bucket.program == ORIGINAL:
            out.append(line + "PyTorch, since no program was admitted")
            continue
        at = ", ".join(f"{k}={v}" for k, v in sorted(facts["sizes"].items()))
        mine, theirs = facts["generated_median_s"] * 1e6, facts["eager_median_s"] * 1e6
        line += f"program {bucket.program}, {mine:.1f} us at {at}; eager PyTorch {theirs:.1f} us"
        out.append(line + (", which serves where it may" if bucket.slower else ""))
    return [*out, "any other size: the function as it was written"]


def certificate_lines(certificate: dict[str, Any]) -> list[str]:
    """A certificate in a few lines: what is proved, what is tested, what is assumed."""
    out: list[str] = []
    for check in certificate.get("checks", []):
        bound = check.get("bound_log2")
        if check.get("kind") == "identical":
            out.append(f"{check.get('verdict')}: {check.get('reason')}")
            continue
        if check.get("kind") == "second":
            out.append(
                f"{check.get('verdict')}: also at its own sizes, {check.get('clean')} elements"
            )
            continue
        kind = f"error at most 2^-{bound:.0f}" if bound is not None else "sampled, no bound"
        out.append(
            f"{check.get('verdict')}: {kind}, {check.get('trials')} trials over {check.get('field')}"
        )
    if buckets := certificate.get("buckets"):
        served = sum(b.get("serves") == "generated" for b in buckets)
        out.append(f"{served} of {len(buckets)} buckets are served by checked programs")
    if proofs := certificate.get("proofs"):
        sampled, every = len(proofs["sampled"]), sum(proofs["lemmas"].values())
        out.append(
            f"index maps: {every - sampled} lemmas proved ({proofs['by_solver']} put to Z3), "
            f"{sampled} sampled"
        )
    gate = certificate.get("gate") or {}
    if gate:
        out.append(
            f"numeric gate: {'passed' if gate.get('passed') else 'FAILED'} "
            f"on {len(gate.get('classes', []))} classes of inputs"
        )
    out += [f"assumes: {a}" for a in _unique(certificate.get("assumptions", []))]
    return out


def _search_lines(meta: dict[str, Any]) -> list[str]:
    stats = meta.get("search", {})
    removed = ", ".join(f"{k} {v}" for k, v in stats.get("removed", {}).items()) or "nothing"
    spaces = stats.get("spaces", [])
    closed = "closed" if stats.get("closed") else "not exhausted"
    if spaces:
        count, rank = sum(s["closed"] for s in spaces), max(s["rank"] for s in spaces)
        closed += f" ({count} of {len(spaces)} regions, at most {rank} axes)"
    lines = [
        f"{stats.get('states', 0)} states, {stats.get('classes', 0)} values, "
        f"{stats.get('graphs', 0)} term graphs costed; algebraic space {closed}",
        f"removed by rule: {removed}",
    ]
    if stats.get("gap") is not None:
        lines.append(f"kernel cut: {_gap(stats['gap'])}, at coarse placements, where results")
        lines.append("  share a kernel only if one has all axes of the other")
    return lines


def _gap(gap: float) -> str:
    if gap < 5e-5:
        return "optimal for the best term graph"
    return f"within {100 * gap:.1f} % of the optimum for the best term graph"


def _block(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{title}:", *("  " + line for line in lines)])


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
