// Reductions, contractions and gathers of the field evaluator.
#include <algorithm>
#include <limits>

#include "field_machine.h"

namespace superopt::field {
namespace {

// The offset of every cell of a nest, for source k, in row-major order.
std::vector<std::int64_t> offsets(const Nest& nest, int k) {
    std::vector<std::int64_t> out;
    out.reserve(nest.cells());
    if (nest.cells() == 0) return out;
    each_row(nest, 1, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) out.push_back(row.off[k] + j * row.step[k]);
    });
    return out;
}

// The status of a sum, by the statuses of its terms.
std::uint8_t settle(const bool (&seen)[kStatuses]) {
    if (seen[kPoison]) return kPoison;
    if (seen[kNan] || (seen[kNeg] && seen[kPos])) return kNan;
    return seen[kNeg] ? kNeg : seen[kPos] ? kPos : kOk;
}

// Sums of products below 2^62, kept as sums of their halves: 2^32 terms fit.
struct Sum {
    std::uint64_t low = 0, high = 0;
    void add(std::uint64_t product) {
        low += product & 0xFFFFFFFFU;
        high += product >> 32;
    }
    std::uint64_t value(std::uint64_t p) const {
        return (high % p * ((std::uint64_t(1) << 32) % p) + low % p) % p;
    }
};

bool infinite(const Reg& r) {
    return std::any_of(r.status.begin(), r.status.end(), [](std::uint8_t x) { return x >= kNeg; });
}

constexpr std::int64_t kBlock = 512;

// sums[j] += a * b along a row: strides of 0 or 1 are told apart so that the loop vectorizes.
void accumulate(const Residue* a, std::int64_t step_a, const Residue* b, std::int64_t step_b,
                std::int64_t n, std::uint64_t* low, std::uint64_t* high) {
    const auto loop = [&](auto at_a, auto at_b) {
        for (std::int64_t j = 0; j < n; ++j) {
            const std::uint64_t x = std::uint64_t(a[at_a(j)]) * b[at_b(j)];
            low[j] += x & 0xFFFFFFFFU;
            high[j] += x >> 32;
        }
    };
    const auto zero = [](std::int64_t) { return std::int64_t(0); };
    const auto one = [](std::int64_t j) { return j; };
    if (step_a == 0 && step_b == 1) {
        loop(zero, one);
    } else if (step_a == 1 && step_b == 0) {
        loop(one, zero);
    } else if (step_a == 1 && step_b == 1) {
        loop(one, one);
    } else {
        loop([&](std::int64_t j) { return j * step_a; }, [&](std::int64_t j) { return j * step_b; });
    }
}

}  // namespace

std::uint8_t Machine::product_status(const Instr& s, const Reg& a, std::int64_t i, const Reg& b,
                                     std::int64_t k) const {
    const std::uint8_t x = a.at(i), y = b.at(k);
    if (x < kNeg && y < kNeg) return mul_status(x, 0, y, 0);  // only an infinity asks for signs
    return mul_status(x, sign(s, 0, a, i), y, sign(s, 1, b, k));
}

// The sign of a constant, or the quadratic character at the lowest level (field_values.signed).
int Machine::sign(const Instr& s, int k, const Reg& r, std::int64_t cell) const {
    if (s.sign[k] != 0 || r.at(cell) != kOk) return s.sign[k];
    int low = 0;
    while ((s.mask >> low & 1U) == 0) ++low;
    const std::uint64_t x = r.res[low][std::size_t(cell)], p = primes_[std::size_t(low)];
    return x == 0 ? 0 : power(x, (p - 1) / 2, p) == 1 ? 1 : -1;
}

void Machine::contract(const Instr& s, Reg& d) {
    const Reg &a = arg(s, 0), &b = arg(s, 1);
    if (a.clean() && b.clean()) return contract_rows(s, d);
    if (!infinite(a) && !infinite(b)) return contract_undefined(s, d);
    const auto ia = offsets(s.inner, 0), ib = offsets(s.inner, 1);
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            const std::int64_t x = row.off[0] + j * row.step[0], y = row.off[1] + j * row.step[1];
            bool seen[kStatuses] = {};
            for (std::size_t k = 0; k < ia.size(); ++k) {
                seen[product_status(s, a, x + ia[k], b, y + ib[k])] = true;
            }
            d.status[c] = settle(seen);
            for (int l = 0; l < code_.levels; ++l) {
                if ((s.mask >> l & 1U) == 0 || d.status[c] != kOk) continue;
                Sum sum;
                for (std::size_t k = 0; k < ia.size(); ++k) {
                    sum.add(std::uint64_t(a.res[l][std::size_t(x + ia[k])]) *
                            b.res[l][std::size_t(y + ib[k])]);
                }
                d.res[l][c] = static_cast<Residue>(sum.value(primes_[std::size_t(l)]));
            }
        }
    }, ia.size());
}

// No factor is infinite: a sum is undefined where a factor is, and else that of the residues.
void Machine::contract_undefined(const Instr& s, Reg& d) {
    contract_rows(s, d);
    d.status.assign(code_.regs[s.dst].cells, kOk);
    for (int k = 0; k < 2; ++k) {
        const Reg& r = arg(s, k);
        if (r.clean()) continue;
        const auto in = offsets(s.inner, k);
        each_row(s.nest, threads_, [&](const Row& row) {
            std::uint8_t found = kOk;
            for (std::int64_t j = 0; j < row.count; ++j) {
                if (j == 0 || row.step[k] != 0) {  // else as for the cell before
                    found = kOk;
                    for (const std::int64_t o : in) {
                        const std::uint8_t x = r.at(row.off[k] + j * row.step[k] + o);
                        if (x != kOk && found != kPoison) found = x;
                        if (found == kPoison) break;
                    }
                }
                std::uint8_t& out = d.status[row.dst + std::size_t(j)];
                if (found != kOk && out != kPoison) out = found;
            }
        }, in.size());
    }
}

// Both factors are ok everywhere: blocks of the last kept dim, the reduced cells outside.
void Machine::contract_rows(const Instr& s, Reg& d) {
    const auto ia = offsets(s.inner, 0), ib = offsets(s.inner, 1);
    for (int l = 0; l < code_.levels; ++l) {
        if ((s.mask >> l & 1U) == 0) continue;
        const std::uint64_t p = primes_[std::size_t(l)];
        const Residue *a = arg(s, 0).res[l].data(), *b = arg(s, 1).res[l].data();
        each_row(s.nest, threads_, [&](const Row& row) {
            std::uint64_t low[kBlock], high[kBlock];
            for (std::int64_t j = 0; j < row.count; j += kBlock) {
                const std::int64_t n = std::min(kBlock, row.count - j);
                std::fill_n(low, n, 0);
                std::fill_n(high, n, 0);
                const Residue* x = a + row.off[0] + j * row.step[0];
                const Residue* y = b + row.off[1] + j * row.step[1];
                for (std::size_t k = 0; k < ia.size(); ++k) {
                    accumulate(x + ia[k], row.step[0], y + ib[k], row.step[1], n, low, high);
                }
                for (std::int64_t i = 0; i < n; ++i) {
                    const Sum sum{low[i], high[i]};
                    d.res[l][row.dst + std::size_t(j + i)] = static_cast<Residue>(sum.value(p));
                }
            }
        }, ia.size());
    }
}

void Machine::reduce(const Instr& s, Reg& d) {
    code_.regs[s.dst].real ? reduce_real(s, d) : reduce_exact(s, d);
}

void Machine::reduce_real(const Instr& s, Reg& d) {
    const Reg& a = arg(s, 0);
    const auto in = offsets(s.inner, 0);
    const bool extreme = s.prim == Prim::kMax || s.prim == Prim::kMin;
    const bool largest = s.prim == Prim::kMax;
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            const std::int64_t base = row.off[0] + j * row.step[0];
            bool seen[kStatuses] = {};
            for (const std::int64_t o : in) seen[a.at(base + o)] = true;
            if (extreme) {
                std::int64_t best = -1;
                std::uint64_t top = 0;
                for (const std::int64_t o : in) {
                    const std::uint64_t at = order(a, s.low, base + o);
                    if (best < 0 || (largest ? at > top : at < top)) best = base + o, top = at;
                }
                std::uint8_t status = largest ? kNeg : kPos;  // of no cells at all
                if (best >= 0) status = a.at(best);
                d.status[c] = seen[kPoison] ? std::uint8_t{kPoison}
                              : seen[kNan]  ? std::uint8_t{kNan}
                                            : status;
                for (int l = 0; l < code_.levels && best >= 0; ++l) {
                    if ((s.mask >> l & 1U) != 0) d.res[l][c] = a.res[l][std::size_t(best)];
                }
                continue;
            }
            const bool add = s.prim == Prim::kAdd;
            if (!add && (seen[kNeg] || seen[kPos])) seen[kPoison] = true;
            d.status[c] = settle(seen);
            for (int l = 0; l < code_.levels; ++l) {
                if ((s.mask >> l & 1U) == 0) continue;
                const std::uint64_t p = primes_[std::size_t(l)];
                std::uint64_t out = add ? 0 : 1;
                for (const std::int64_t o : in) {
                    const std::uint64_t x = a.res[l][std::size_t(base + o)];
                    out = add ? out + x : out * x % p;
                }
                d.res[l][c] = static_cast<Residue>(out % p);
            }
        }
    }, in.size());
}

void Machine::reduce_exact(const Instr& s, Reg& d) {
    const Reg& a = arg(s, 0);
    const auto in = offsets(s.inner, 0);
    using Limits = std::numeric_limits<std::int64_t>;
    const std::int64_t first = s.prim == Prim::kMax   ? Limits::min()
                               : s.prim == Prim::kMin ? Limits::max()
                               : s.prim == Prim::kMul || s.prim == Prim::kAnd ? 1
                                                                              : 0;
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            std::int64_t out = first;
            for (const std::int64_t o : in) {
                const std::int64_t at = row.off[0] + j * row.step[0] + o;
                const std::int64_t x = a.data[std::size_t(at)];
                if (a.at(at) != kOk) d.status[c] = kPoison;
                switch (s.prim) {
                case Prim::kMul:
                    out = static_cast<std::int64_t>(std::uint64_t(out) * std::uint64_t(x));
                    break;
                case Prim::kMax: out = std::max(out, x); break;
                case Prim::kMin: out = std::min(out, x); break;
                case Prim::kAnd: out = out != 0 && x != 0; break;
                case Prim::kOr: out = out != 0 || x != 0; break;
                default: out = static_cast<std::int64_t>(std::uint64_t(out) + std::uint64_t(x));
                }
            }
            d.data[c] = out;
        }
    }, in.size());
}

// INDEX reads at a table that came with the program, GATHER at run-time integers: what one outside of
// its axis reads is undefined.
void Machine::gather(const Instr& s, Reg& d) {
    const Reg& a = arg(s, 0);
    const bool real = code_.regs[s.dst].real, indexed = s.op == Op::kIndex;
    const Reg* at = indexed ? nullptr : &arg(s, 1);
    if (!a.clean() || at != nullptr) {
        d.status.assign(code_.regs[s.dst].cells, kOk);
    }
    const auto move = [&](std::size_t c, std::int64_t from, bool poison) {
        if (!d.clean()) d.status[c] = poison ? std::uint8_t{kPoison} : a.at(from);
        if (!real) d.data[c] = a.data[std::size_t(from)];
        for (int l = 0; real && l < code_.levels; ++l) {
            if ((s.mask >> l & 1U) != 0) d.res[l][c] = a.res[l][std::size_t(from)];
        }
    };
    if (indexed) {
        for (std::size_t c = 0; c < code_.regs[s.dst].cells; ++c) move(c, s.table[c], false);
        return;
    }
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::int64_t k = row.off[1] + j * row.step[1];
            const std::int64_t asked = at->data[std::size_t(k)];
            const std::int64_t pick = std::clamp<std::int64_t>(asked, 0, s.lo - 1);
            move(row.dst + std::size_t(j), row.off[0] + j * row.step[0] + pick * s.hi,
                 at->at(k) != kOk || asked < 0 || asked >= s.values[0]);
        }
    });
}

}  // namespace superopt::field
