// Cheap necessary conditions of the pruning rule, by which most candidates fall before they are made.
#include <map>

#include "part.h"

namespace superopt::search {

const Targets::Where& Targets::where(MonoId m) {
    auto [it, fresh] = where_.try_emplace(m);
    Where& w = it->second;
    if (!fresh) return w;
    w.places.assign(places_.size() / 64 + 1, 0);
    w.polys.assign(polys_.size() / 64 + 1, 0);
    for (std::size_t i = 0; i < places_.size(); i++) w.places[i / 64] |= std::uint64_t{1} << i % 64;
    for (auto& [a, e] : totals(m)) {
        // Sizes cancel in products, so they say nothing about what a product may be part of.
        if (algebra_.atom(a).kind == Kind::size) continue;
        Bits here(w.places.size(), 0);
        if (static_cast<std::size_t>(a) < by_atom_.size())
            for (auto& [i, x] : by_atom_[a])
                if (!(x < e)) here[i / 64] |= std::uint64_t{1} << i % 64;
        for (std::size_t k = 0; k < here.size(); k++) w.places[k] &= here[k];
    }
    for (std::size_t i = 0; i < places_.size(); i++)
        if (w.places[i / 64] >> i % 64 & 1) {
            auto t = static_cast<std::size_t>(places_[i].poly);
            w.polys[t / 64] |= std::uint64_t{1} << t % 64;
        }
    return w;
}

// A total order that multiplication preserves: lexicographic in the exponents of atoms and groups.
bool Targets::less(MonoId a, MonoId b) const {
    auto exponents = [&](MonoId m) {
        std::map<std::pair<int, int>, Num> out;
        for (auto& [x, e] : algebra_.mono(m).free) {
            const Atom& atom = algebra_.atom(x);
            if (atom.kind == Kind::size)
                out[{2, static_cast<int>(atom.name)}] = number(atom.sign) * e;
            else
                out[{0, x}] = e;
        }
        for (int g : algebra_.mono(m).groups) out[{1, g}] = out[{1, g}] + number(1);
        return out;
    };
    auto x = exponents(a), y = exponents(b);
    auto i = x.begin(), j = y.begin();
    while (i != x.end() || j != y.end()) {
        if (j == y.end() || (i != x.end() && i->first < j->first)) return i->second.v < 0;
        if (i == x.end() || j->first < i->first) return j->second.v > 0;
        if (!(i->second == j->second)) return i->second < j->second;
        ++i, ++j;
    }
    return false;
}

const Targets::Extremes& Targets::extremes(PolyId p) {
    auto [it, fresh] = extremes_.try_emplace(p);
    Extremes& out = it->second;
    if (!fresh) return out;
    const Terms& terms = algebra_.terms(p);
    out.polys.assign(polys_.size() / 64 + 1, ~std::uint64_t{0});
    out.least = out.greatest = terms.empty() ? -1 : terms[0].first;
    for (auto& [m, c] : terms) {
        if (less(m, out.least)) out.least = m;
        if (less(out.greatest, m)) out.greatest = m;
        const Bits& here = where(m).polys;
        for (std::size_t k = 0; k < here.size(); k++) out.polys[k] &= here[k];
    }
    return out;
}

namespace {

bool meet(const Bits& a, const Bits& b) {
    for (std::size_t k = 0; k < a.size(); k++)
        if (a[k] & b[k]) return true;
    return false;
}

bool meet(const Bits& a, const Bits& b, const Bits& c, const Bits& d) {
    for (std::size_t k = 0; k < a.size(); k++)
        if (a[k] & b[k] & c[k] & d[k]) return true;
    return false;
}

}  // namespace

bool Targets::may_hold_product(PolyId a, PolyId b) {
    const Terms &s = algebra_.terms(a), &t = algebra_.terms(b);
    if (s.empty() || t.empty()) return false;
    const Extremes& x = extremes(a);
    const Extremes& y = extremes(b);
    // A product by one monomial merges nothing: all its monomials must occur in one polynomial.
    if (s.size() == 1 && t.size() == 1) return meet(where(x.least).places, where(y.least).places);
    if (s.size() == 1 || t.size() == 1) return meet(x.polys, y.polys);
    return meet(where(x.least).polys, where(y.least).polys, where(x.greatest).polys,
                where(y.greatest).polys);
}

bool Targets::may_hold_sum(PolyId a, PolyId b) {
    const Terms &s = algebra_.terms(a), &t = algebra_.terms(b);
    // Monomials that only one side has stay in the sum.
    Bits all(polys_.size() / 64 + 1, ~std::uint64_t{0});
    auto keep = [&](MonoId m) {
        const Bits& here = where(m).polys;
        std::uint64_t any = 0;
        for (std::size_t k = 0; k < all.size(); k++) any |= all[k] &= here[k];
        return any != 0;
    };
    auto i = s.begin(), j = t.begin();
    while (i != s.end() || j != t.end()) {
        if (i != s.end() && j != t.end() && i->first == j->first) {
            ++i, ++j;
        } else if (j == t.end() || (i != s.end() && i->first < j->first)) {
            if (!keep((i++)->first)) return false;
        } else if (!keep((j++)->first)) {
            return false;
        }
    }
    return true;
}

}  // namespace superopt::search
