// Elementwise primitives of the field evaluator: one trial, all levels, cell by cell.
#include "field_machine.h"

#include <algorithm>
#include <limits>

namespace superopt::field {

std::uint8_t add_status(std::uint8_t a, std::uint8_t b) {
    const bool opposite = (a == kNeg && b == kPos) || (a == kPos && b == kNeg);
    if (a == kPoison || b == kPoison) return kPoison;
    if (a == kNan || b == kNan || opposite) return kNan;
    return std::max(a, b);
}

std::uint8_t mul_status(std::uint8_t a, int sign_a, std::uint8_t b, int sign_b) {
    if (a == kPoison || b == kPoison) return kPoison;
    if (a == kNan || b == kNan) return kNan;
    if (a == kOk && b == kOk) return kOk;
    const int x = a == kOk ? sign_a : (a == kNeg ? -1 : 1);
    const int y = b == kOk ? sign_b : (b == kNeg ? -1 : 1);
    if (x * y == 0) return kNan;
    return x * y > 0 ? kPos : kNeg;
}

std::int64_t wrap(std::int64_t v, std::int64_t dtype) {
    switch (dtype) {
    case 1: return v != 0;
    case 2: return static_cast<std::int16_t>(v);
    case 4: return static_cast<std::int32_t>(v);
    case 9: return static_cast<std::int8_t>(v);
    case -9: return static_cast<std::uint8_t>(v);
    default: return v;
    }
}

Machine::Machine(const Code& code, const std::vector<std::uint64_t>& primes, std::uint64_t key,
                 bool pooled, const std::uint64_t* omega, int threads)
    : code_(code), primes_(primes), key_(key), order_key_(mix(key ^ text_hash("order"))),
      pooled_(pooled), omega_(omega), threads_(threads), regs_(code.regs.size()),
      powers_(primes.size()), log_unit_(primes.size(), 0) {
    place_literals();
}

void Machine::run(const std::function<void(std::size_t, const Instr&, const Reg&)>& emit) {
    std::size_t outputs = 0;
    for (std::size_t i = 0; i < code_.instrs.size(); ++i) {
        const Instr& s = code_.instrs[i];
        if (s.op == Op::kOutput) {
            emit(outputs++, s, regs_[s.args[0]]);
        } else if (!s.skip) {
            Reg& d = regs_[s.dst];
            allocate(s, d);
            switch (s.op) {
            case Op::kInput: input(s, d); break;
            case Op::kConst: constant(s, d); break;
            case Op::kIota:
                for (std::size_t c = 0; c < d.data.size(); ++c) d.data[c] = std::int64_t(c);
                break;
            case Op::kApply: apply(s, d); break;
            case Op::kReduce: s.contraction ? contract(s, d) : reduce(s, d); break;
            default: gather(s, d); break;
            }
            seal(s, d);
        }
        for (int k = 0; k < s.nargs && !s.skip; ++k) {
            if (code_.regs[s.args[k]].last_use == i) regs_[s.args[k]] = Reg();
        }
    }
}

void Machine::allocate(const Instr& s, Reg& d) {
    const RegInfo& info = code_.regs[s.dst];
    d = Reg();
    if (!info.real) d.data.assign(info.cells, 0);
    for (int l = 0; info.real && l < code_.levels; ++l) {
        if ((info.mask >> l & 1U) != 0) d.res[l].assign(info.cells, 0);
    }
}

void Machine::seal(const Instr& s, Reg& d) {
    if (d.clean()) return;
    if (std::none_of(d.status.begin(), d.status.end(), [](std::uint8_t x) { return x != kOk; })) {
        d.status.clear();
        return;
    }
    for (std::size_t c = 0; c < d.status.size(); ++c) {
        if (d.status[c] == kOk) continue;
        if (!code_.regs[s.dst].real) d.data[c] = 0;
        for (auto& r : d.res) {
            if (!r.empty()) r[c] = 0;
        }
    }
}

void Machine::input(const Instr& s, Reg& d) {
    const RegInfo& info = code_.regs[s.dst];
    const std::uint64_t named = mix(key_ ^ s.salt);
    const std::uint64_t base = pooled_ ? mix(key_ ^ text_hash("pool")) : named;
    // Floats take literals besides in half of the trials with pools.
    const std::uint64_t literals = info.real ? code_.literals[0].size() : 0;
    const std::uint64_t choices = kPool + (pooled_ && (key_ >> 63) != 0 ? literals : 0);
    const auto place = [&](std::uint64_t cell) {
        return pooled_ ? mix(named + (cell + 1) * kGolden) % choices : cell;
    };
    for (int l = 0; l < code_.levels; ++l) {
        const bool wanted = info.real ? (info.mask >> l & 1U) != 0 : l == 0;
        if (!wanted) continue;
        const std::uint64_t salted = mix(base + level_salt(l)), p = primes_[std::size_t(l)];
        const auto span = static_cast<std::uint64_t>(std::max<std::int64_t>(s.hi - s.lo + 1, 1));
        const auto number = [&](std::uint64_t h) {
            const std::uint64_t k = h % (span + s.values.size());
            return k < span ? static_cast<std::int64_t>(k) + s.lo : s.values[k - span];
        };
        each_row(s.nest, threads_, [&](const Row& row) {
            for (std::int64_t j = 0; j < row.count; ++j) {
                const std::uint64_t at = place(std::uint64_t(row.off[0] + j * row.step[0]));
                const std::uint64_t h = mix(salted + (at + 1) * kGolden);
                const std::size_t c = row.dst + std::size_t(j);
                if (info.real && pooled_ && at >= kPool) {
                    d.res[l][c] = code_.literals[l][at - kPool];
                } else if (info.real) {
                    d.res[l][c] = static_cast<Residue>(h % p);
                } else {
                    d.data[c] = wrap(number(h), s.dtype);
                }
            }
        });
    }
}

void Machine::constant(const Instr& s, Reg& d) {
    if (!code_.regs[s.dst].real) {
        d.data[0] = s.values[0];
        return;
    }
    for (int l = 0; l < code_.levels; ++l) {
        if (!d.res[l].empty()) d.res[l][0] = static_cast<Residue>(s.values[std::size_t(l)]);
    }
    if (s.lo != kOk) d.status.assign(1, static_cast<std::uint8_t>(s.lo));
}

void Machine::apply(const Instr& s, Reg& d) {
    const bool real = code_.regs[s.args[0]].real;
    switch (s.prim) {
    case Prim::kAdd: case Prim::kMul:
        return real ? arithmetic(s, d) : exact(s, d);
    case Prim::kMax: case Prim::kMin: case Prim::kLt: case Prim::kLe: case Prim::kEq:
        return real ? selection(s, d) : exact(s, d);
    case Prim::kRecip: case Prim::kSqrt: return inverse(s, d);
    case Prim::kExp: case Prim::kLog: return transcendental(s, d);
    case Prim::kKeyed: case Prim::kKeyedInt: return keyed(s, d);
    case Prim::kToReal: case Prim::kToBool: case Prim::kCopy: return convert(s, d);
    case Prim::kWhere: return choice(s, d);
    default: return exact(s, d);
    }
}

void Machine::arithmetic(const Instr& s, Reg& d) {
    const Reg &a = arg(s, 0), &b = arg(s, 1);
    const bool add = s.prim == Prim::kAdd;
    if (!a.clean() || !b.clean()) {
        d.status.assign(code_.regs[s.dst].cells, kOk);
        each_row(s.nest, threads_, [&](const Row& row) {
            for (std::int64_t j = 0; j < row.count; ++j) {
                const std::uint8_t x = a.at(row.off[0] + j * row.step[0]);
                const std::uint8_t y = b.at(row.off[1] + j * row.step[1]);
                d.status[row.dst + std::size_t(j)] =
                    add ? add_status(x, y)
                        : product_status(s, a, row.off[0] + j * row.step[0], b,
                                         row.off[1] + j * row.step[1]);
            }
        });
    }
    for (int l = 0; l < code_.levels; ++l) {
        if ((s.mask >> l & 1U) == 0) continue;
        const std::uint64_t p = primes_[std::size_t(l)];
        const Residue *x = a.res[l].data(), *y = b.res[l].data();
        Residue* out = d.res[l].data();
        each_row(s.nest, threads_, [&](const Row& row) {
            const Residue *u = x + row.off[0], *v = y + row.off[1];
            Residue* w = out + row.dst;
            for (std::int64_t j = 0; j < row.count; ++j, u += row.step[0], v += row.step[1]) {
                const std::uint64_t sum = add ? std::uint64_t(*u) + *v : std::uint64_t(*u) * *v % p;
                w[j] = static_cast<Residue>(sum >= p ? sum - p : sum);
            }
        });
    }
}

void Machine::inverse(const Instr& s, Reg& d) {
    const Reg& a = arg(s, 0);
    const bool root = s.prim == Prim::kSqrt;
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            const std::int64_t from = row.off[0] + j * row.step[0];
            std::uint8_t status = a.at(from);
            if (root && status == kNeg) status = kNan;
            const bool ok = status == kOk;
            for (int l = 0; l < code_.levels; ++l) {
                if ((s.mask >> l & 1U) == 0 || !ok) continue;
                const std::uint64_t p = primes_[std::size_t(l)], x = a.res[l][std::size_t(from)];
                const std::uint64_t y = power(x, root ? (p + 1) / 4 : p - 2, p);
                if (root ? y * y % p != x : x == 0) status = kPoison;
                d.res[l][c] = static_cast<Residue>(y);
            }
            // 1/inf is the residue 0; the root of +inf stays infinite.
            d.status[c] = !root && (status == kNeg || status == kPos) ? std::uint8_t{kOk} : status;
        }
    }, 64);
}

void Machine::transcendental(const Instr& s, Reg& d) {
    const Reg& a = arg(s, 0);
    const bool exp = s.prim == Prim::kExp;
    for (int l = 0; l < code_.levels; ++l) {
        if ((s.mask >> l & 1U) == 0) continue;
        const auto i = static_cast<std::size_t>(exp ? l : l - 1);
        if (exp && !powers_[i]) powers_[i] = std::make_unique<PowerTable>(omega_[i], primes_[i]);
        if (!exp && log_unit_[i] == 0) {
            const std::uint64_t order = primes_[i + 1];
            log_unit_[i] = power(log_table(primes_[i])(omega_[i]), order - 2, order);
        }
    }
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            const std::int64_t from = row.off[0] + j * row.step[0];
            std::uint8_t status = a.at(from);
            if (!exp && status == kNeg) status = kNan;
            for (int l = 0; l < code_.levels; ++l) {
                if ((s.mask >> l & 1U) == 0) continue;
                const auto i = static_cast<std::size_t>(exp ? l : l - 1);
                const Residue x = a.res[exp ? l + 1 : l - 1][std::size_t(from)];
                if (exp) {
                    d.res[l][c] = status == kOk ? static_cast<Residue>((*powers_[i])(x)) : 0;
                } else if (status == kOk && power(x, (primes_[i] - 1) / 2, primes_[i]) != 1) {
                    status = x == 0 ? kNeg : kPoison;  // log 0 is -inf
                } else if (status == kOk) {
                    const std::uint64_t order = primes_[i + 1];
                    d.res[l][c] = static_cast<Residue>(log_table(primes_[i])(x) * log_unit_[i] % order);
                }
            }
            d.status[c] = exp && status == kNeg ? std::uint8_t{kOk} : status;  // exp(-inf) = 0
        }
    }, exp ? 8 : 4096);
}

void Machine::convert(const Instr& s, Reg& d) {
    const Reg& a = arg(s, 0);
    const bool real = code_.regs[s.dst].real, from_real = code_.regs[s.args[0]].real;
    if (!a.clean()) d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            const auto from = static_cast<std::size_t>(row.off[0] + j * row.step[0]);
            const std::uint8_t status = a.at(std::int64_t(from));
            if (s.prim == Prim::kToBool) {
                d.data[c] = status >= kNan || a.res[s.low][from] != 0;
                if (status == kPoison) d.status[c] = kPoison;
                continue;
            }
            if (!a.clean()) d.status[c] = status;
            if (!real) d.data[c] = a.data[from];
            for (int l = 0; real && l < code_.levels; ++l) {
                if ((s.mask >> l & 1U) == 0) continue;
                if (from_real) {
                    d.res[l][c] = a.res[l][from];
                } else {
                    const auto p = static_cast<std::int64_t>(primes_[std::size_t(l)]);
                    d.res[l][c] = static_cast<Residue>((a.data[from] % p + p) % p);
                }
            }
        }
    });
}

void Machine::choice(const Instr& s, Reg& d) {
    const Reg& cond = arg(s, 0);
    const bool real = code_.regs[s.dst].real;
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            const std::int64_t at = row.off[0] + j * row.step[0];
            const int k = cond.data[std::size_t(at)] != 0 ? 1 : 2;
            const std::int64_t from = row.off[k] + j * row.step[k];
            d.status[c] = cond.at(at) != kOk ? std::uint8_t{kPoison} : arg(s, k).at(from);
            if (!real) d.data[c] = arg(s, k).data[std::size_t(from)];
            for (int l = 0; real && l < code_.levels; ++l) {
                if ((s.mask >> l & 1U) != 0) d.res[l][c] = arg(s, k).res[l][std::size_t(from)];
            }
        }
    });
}

void Machine::exact(const Instr& s, Reg& d) {
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            std::int64_t x[2] = {0, 0};
            for (int k = 0; k < s.nargs; ++k) {
                const std::int64_t from = row.off[k] + j * row.step[k];
                x[k] = arg(s, k).data[std::size_t(from)];
                if (arg(s, k).at(from) != kOk) d.status[c] = kPoison;
            }
            const auto u = static_cast<std::uint64_t>(x[0]), v = static_cast<std::uint64_t>(x[1]);
            std::int64_t& out = d.data[c];
            switch (s.prim) {
            case Prim::kAdd: out = static_cast<std::int64_t>(u + v); break;
            case Prim::kMul: out = static_cast<std::int64_t>(u * v); break;
            case Prim::kMax: out = std::max(x[0], x[1]); break;
            case Prim::kMin: out = std::min(x[0], x[1]); break;
            case Prim::kLt: out = x[0] < x[1]; break;
            case Prim::kLe: out = x[0] <= x[1]; break;
            case Prim::kEq: out = x[0] == x[1]; break;
            case Prim::kNot: out = x[0] == 0; break;
            case Prim::kAnd: out = x[0] != 0 && x[1] != 0; break;
            case Prim::kOr: out = x[0] != 0 || x[1] != 0; break;
            case Prim::kWrap: out = wrap(x[0], s.dtype); break;
            default: {  // division rounds down; by -1 in two's complement
                if (x[1] == 0) {
                    d.status[c] = kPoison;
                } else if (x[1] == -1) {
                    out = s.prim == Prim::kMod ? 0 : static_cast<std::int64_t>(0 - u);
                } else {
                    const std::int64_t rest = x[0] % x[1];
                    const bool down = rest != 0 && (rest < 0) != (x[1] < 0);
                    out = s.prim == Prim::kMod ? rest + (down ? x[1] : 0) : x[0] / x[1] - down;
                }
            }
            }
        }
    });
}

}  // namespace superopt::field
