// Cheap necessary conditions of the pruning rule, by which most candidates fall before they are made.
#include <map>

#include "part.h"

namespace superopt::search {

const Where& Targets::where(MonoId m) {
    auto [it, fresh] = where_.try_emplace(m);
    Where& w = it->second;
    if (!fresh) return w;
    w.places.assign(places_.size() / 64 + 1, 0);
    w.polys.assign(polys_.size() / 64 + 1, 0);
    held_ += bytes_of(w.places) + bytes_of(w.polys) + table_entry;
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

const Extremes& Targets::extremes(PolyId p) {
    auto [it, fresh] = extremes_.try_emplace(p);
    Extremes& out = it->second;
    if (!fresh) return out;
    const Terms& terms = algebra_.terms(p);
    out.poly = p;
    out.size = terms.size();
    out.polys.assign(polys_.size() / 64 + 1, ~std::uint64_t{0});
    held_ += sizeof(Extremes) + bytes_of(out.polys) + table_entry;
    if (terms.empty()) return out;
    MonoId least = terms[0].first, greatest = least;
    for (auto& [m, c] : terms) {
        if (less(m, least)) least = m;
        if (less(greatest, m)) greatest = m;
        const Bits& here = where(m).polys;
        for (std::size_t k = 0; k < here.size(); k++) out.polys[k] &= here[k];
    }
    out.least = &where(least);
    out.greatest = &where(greatest);
    out.totals = &totals(least);
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

// Whether some place has the factors of both monomials, each often enough.
bool Targets::may_hold_both(const Extremes& a, const Extremes& b) {
    const Bits &x = a.least->places, &y = b.least->places;
    for (std::size_t k = 0; k < x.size(); k++)
        for (std::uint64_t bits = x[k] & y[k]; bits; bits &= bits - 1) {
            std::size_t place = k * 64 + static_cast<std::size_t>(__builtin_ctzll(bits));
            const Totals& have = totals(places_[place].mono);
            // Each monomial fits alone: only atoms that both have can be too many.
            bool fits = true;
            auto i = a.totals->begin(), j = b.totals->begin();
            auto h = have.begin();
            while (fits && i != a.totals->end() && j != b.totals->end()) {
                if (i->first < j->first) {
                    ++i;
                } else if (j->first < i->first) {
                    ++j;
                } else {
                    while (h != have.end() && h->first < i->first) ++h;
                    bool size = algebra_.atom(i->first).kind == Kind::size;
                    fits = size || (h != have.end() && !(h->second < i->second + j->second));
                    ++i, ++j;
                }
            }
            if (fits) return true;
        }
    return false;
}

bool Targets::may_hold_product(const Extremes& a, const Extremes& b) {
    if (a.size == 0 || b.size == 0) return false;
    // A product by one monomial merges nothing: all its monomials must occur in one polynomial.
    if (a.size == 1 && b.size == 1) return may_hold_both(a, b);
    if (a.size == 1 || b.size == 1) return meet(a.polys, b.polys);
    return meet(a.least->polys, b.least->polys, a.greatest->polys, b.greatest->polys);
}

bool Targets::may_hold_sum(const Extremes& a, const Extremes& b) {
    if (meet(a.polys, b.polys)) return true;
    // Monomials that only one side has stay in the sum; those that both have may cancel.
    Bits all(polys_.size() / 64 + 1, ~std::uint64_t{0});
    bool shared = false;
    const Terms &s = algebra_.terms(a.poly), &t = algebra_.terms(b.poly);
    for (int pass = 0; pass < 2; pass++) {
        auto i = s.begin(), j = t.begin();
        while (i != s.end() || j != t.end()) {
            if (i != s.end() && j != t.end() && i->first == j->first) {
                shared = true;
                ++i, ++j;
                continue;
            }
            bool left = j == t.end() || (i != s.end() && i->first < j->first);
            MonoId m = left ? (i++)->first : (j++)->first;
            if (pass == 0) continue;
            const Bits& here = where(m).polys;
            std::uint64_t any = 0;
            for (std::size_t k = 0; k < all.size(); k++) any |= all[k] &= here[k];
            if (!any) return false;
        }
        if (!shared) return false;
    }
    return true;
}

}  // namespace superopt::search
