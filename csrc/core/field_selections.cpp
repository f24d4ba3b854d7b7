// The order of floats in a trial, what is chosen by it, and functions known by name alone.
#include <algorithm>
#include <limits>

#include "field_machine.h"

namespace superopt::field {

std::uint64_t Machine::order(const Reg& r, int low, std::int64_t cell) const {
    const std::uint8_t status = r.at(cell);
    if (status == kNeg) return 0;
    if (status == kPos) return std::numeric_limits<std::uint64_t>::max();
    const std::uint64_t x = r.res[low][std::size_t(cell)];
    if ((sieve_[low] >> (x & 63) & 1U) != 0) {  // perhaps a literal
        for (std::size_t k = code_.literals[low].size(); k-- > 0;) {
            if (code_.literals[low][k] == x) return places_[low][k];
        }
    }
    return place(x);
}

std::uint64_t Machine::place(std::uint64_t x) const {
    const std::uint64_t most = std::numeric_limits<std::uint64_t>::max() - 1;
    return std::clamp<std::uint64_t>(mix(x * kGolden + order_key_), 1, most);
}

// Literals have the places of their residues, in the order of the numbers themselves; of two with one
// residue, the last counts.
void Machine::place_literals() {
    for (int l = 0; l < code_.levels; ++l) {
        for (const std::uint32_t x : code_.literals[l]) {
            sieve_[l] |= std::uint64_t(1) << (x & 63);
            places_[l].push_back(place(x));
        }
        std::sort(places_[l].begin(), places_[l].end());
    }
}

void Machine::selection(const Instr& s, Reg& d) {
    const Reg &a = arg(s, 0), &b = arg(s, 1);
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            const std::int64_t i = row.off[0] + j * row.step[0], k = row.off[1] + j * row.step[1];
            const std::uint8_t x = a.at(i), y = b.at(k);
            const std::uint64_t u = order(a, s.low, i), v = order(b, s.low, k);
            const bool bad = x == kPoison || y == kPoison, nan = x == kNan || y == kNan;
            if (s.prim == Prim::kMax || s.prim == Prim::kMin) {
                const bool second = s.prim == Prim::kMax ? v > u : v < u;
                d.status[c] = bad ? std::uint8_t{kPoison} : nan ? std::uint8_t{kNan} : second ? y : x;
                for (int l = 0; l < code_.levels; ++l) {
                    if ((s.mask >> l & 1U) == 0) continue;
                    d.res[l][c] = second ? b.res[l][std::size_t(k)] : a.res[l][std::size_t(i)];
                }
            } else {
                d.data[c] = s.prim == Prim::kLt ? u < v : s.prim == Prim::kLe ? u <= v : u == v;
                if (nan) d.data[c] = 0;  // a comparison with NaN is false
                d.status[c] = bad ? kPoison : kOk;
            }
        }
    }, 4);
}

void Machine::keyed(const Instr& s, Reg& d) {
    const std::uint64_t base = mix(key_ ^ s.salt);
    const bool keeps = s.prim == Prim::kKeyed && s.low != 0;  // infinities are their own images
    int low[kMaxArgs] = {0, 0, 0};
    for (int k = 0; k < s.nargs; ++k) {
        while ((code_.regs[s.args[k]].mask >> low[k] & 1U) == 0) ++low[k];
    }
    d.status.assign(code_.regs[s.dst].cells, kOk);
    each_row(s.nest, threads_, [&](const Row& row) {
        for (std::int64_t j = 0; j < row.count; ++j) {
            const std::size_t c = row.dst + std::size_t(j);
            std::uint64_t h = base;
            for (int k = 0; k < s.nargs; ++k) {
                const std::int64_t from = row.off[k] + j * row.step[k];
                const std::uint8_t status = arg(s, k).at(from);
                std::uint64_t x = arg(s, k).res[low[k]][std::size_t(from)];
                if (status >= kNeg) x = kInfinite + status;
                h = mix(h ^ mix(x + kGolden));
                if (status == kPoison || (status == kNan && d.status[c] != kPoison) ||
                    (keeps && status >= kNeg)) {
                    d.status[c] = status;
                }
            }
            if (s.prim == Prim::kKeyedInt && d.status[c] != kOk) d.status[c] = kPoison;
            if (s.prim == Prim::kKeyedInt) {  // half of the numbers are small: they may be indices
                const std::uint64_t n = h >> 63 != 0 ? h % 12 + (1 << 15) - 2 : h % (1 << 16);
                d.data[c] = wrap(static_cast<std::int64_t>(n) - (1 << 15), s.dtype);
                continue;
            }
            for (int l = 0; l < code_.levels; ++l) {
                if ((s.mask >> l & 1U) == 0) continue;
                d.res[l][c] = static_cast<Residue>(mix(h + level_salt(l)) % primes_[std::size_t(l)]);
            }
        }
    }, 4);
}

}  // namespace superopt::field
