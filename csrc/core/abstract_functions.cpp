// The laws of functions in the abstract algebra: exponential, reciprocal, square root.
#include <algorithm>

#include "abstract.h"

namespace superopt::search {

PolyId Algebra::apply(Law law, std::uint64_t name, PolyId p) {
    switch (law) {
        case Law::exponential: return exponential(p);
        case Law::reciprocal: return reciprocal(p);
        case Law::root: return root(p);
        case Law::keyed: break;
    }
    return of(intern(Atom{Kind::keyed, 1, name, p, axes(p)}), number(1));
}

PolyId Algebra::exponential(PolyId p) {
    Mono out;
    for (std::size_t i = 0; i < polys_[p].size(); i++) {
        auto [m, c] = polys_[p][i];
        int a = intern(Atom{Kind::exponential, c.v > 0 ? 1 : -1, 0, m, monos_[m].axes});
        out.free.emplace_back(a, c.abs());
    }
    std::sort(out.free.begin(), out.free.end(), [](auto& x, auto& y) { return x.first < y.first; });
    return poly({{intern(std::move(out)), number(1)}});
}

PolyId Algebra::function(Kind kind, PolyId arg, Num scale) {
    int a = intern(Atom{kind, 1, 0, arg, axes(arg)});
    if (!as_met_.count(a)) {
        Terms t = polys_[arg];
        for (auto& [m, c] : t) c = c * scale;
        as_met_[a] = poly(std::move(t));
    }
    return of(a, number(1));
}

PolyId Algebra::reciprocal(PolyId p) {
    if (polys_[p].empty()) throw Pole{};
    Mono common;
    Num scale;
    PolyId rest;
    content(p, common, scale, rest);
    PolyId out = constant(scale.inverse());
    for (auto& [a, e] : common.free) out = mul(out, inverse(a, e));
    for (int g : common.groups) out = mul(out, function(Kind::reciprocal, of_group(g), number(1)));
    return rest < 0 ? out : mul(out, function(Kind::reciprocal, rest, scale));
}

PolyId Algebra::root(PolyId p) {
    if (polys_[p].empty()) return p;
    Mono common;
    Num scale;
    PolyId rest;
    content(p, common, scale, rest);
    if (scale.v < 0 && rest >= 0) {
        scale = -scale;
        Terms t = polys_[rest];
        for (auto& [m, c] : t) c = -c;
        rest = poly(std::move(t));
    }
    PolyId out = scale == number(1) ? constant(scale)
                                    : function(Kind::root, constant(scale), number(1));
    for (auto& [a, e] : common.free) out = mul(out, root_of(a, e));
    for (int g : common.groups) out = mul(out, function(Kind::root, of_group(g), number(1)));
    return rest < 0 ? out : mul(out, function(Kind::root, rest, scale));
}

PolyId Algebra::inverse(int a, Num e) {
    Atom atom = atoms_[a];
    if (atom.kind == Kind::size || atom.kind == Kind::exponential) {
        atom.sign = -atom.sign;
        return of(intern(atom), e);
    }
    if (atom.kind == Kind::reciprocal) return power(atom.arg, e);
    return power(function(Kind::reciprocal, of(a, number(1)), number(1)), e);
}

PolyId Algebra::root_of(int a, Num e) {
    Atom atom = atoms_[a];
    if (atom.kind == Kind::exponential) return of(a, e * number(2).inverse());
    if (atom.kind == Kind::reciprocal || (atom.kind == Kind::size && atom.sign < 0))
        return power(reciprocal(root(reciprocal(of(a, number(1))))), e);
    return power(function(Kind::root, of(a, number(1)), number(1)), e);
}

PolyId Algebra::power(PolyId p, Num e) {
    PolyId out = constant(number(1));
    for (int i = 0; i < static_cast<int>(e.v + 0.5); i++) out = mul(out, p);
    return out;
}

void Algebra::content(PolyId p, Mono& common, Num& scale, PolyId& rest) {
    Terms t = polys_[p];
    common = monos_[t[0].first];
    scale = t[0].second;
    rest = -1;
    if (t.size() == 1) return;
    // A rational comes out only where all coefficients have one magnitude, a sign where they share it.
    bool negative = true;
    scale = scale.abs();
    for (auto& [m, c] : t) {
        if (!(c.abs() == t[0].second.abs())) scale = number(1);
        negative = negative && c.v < 0;
        const Mono& mono = monos_[m];
        std::vector<std::pair<int, Num>> free;
        for (auto& [a, e] : common.free)
            for (auto& [b, f] : mono.free)
                if (a == b) free.emplace_back(a, f < e ? f : e);
        std::vector<int> groups;
        std::set_intersection(common.groups.begin(), common.groups.end(), mono.groups.begin(),
                              mono.groups.end(), std::back_inserter(groups));
        common.free = std::move(free);
        common.groups = std::move(groups);
    }
    if (negative) scale = -scale;
    Terms left;
    for (auto& [m, c] : t) {
        Mono mono = monos_[m];
        for (auto& [a, e] : mono.free)
            for (auto& [b, f] : common.free)
                if (a == b) e = e - f;
        std::erase_if(mono.free, [](auto& f) { return f.second.zero(); });
        std::vector<int> groups;
        std::set_difference(mono.groups.begin(), mono.groups.end(), common.groups.begin(),
                            common.groups.end(), std::back_inserter(groups));
        mono.groups = std::move(groups);
        left.emplace_back(intern(std::move(mono)), c * scale.inverse());
    }
    rest = poly(std::move(left));
}

}  // namespace superopt::search
