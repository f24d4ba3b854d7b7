// The polynomials of the source terms, among which the pruning rule looks.
#include <algorithm>
#include <map>

#include "part.h"

namespace superopt::search {

namespace {

constexpr int max_multiple = 8;
constexpr std::size_t max_ratios = 2048;

}  // namespace

Targets::Targets(Algebra& algebra, const std::vector<PolyId>& sources,
                 const std::vector<Num>& literals, int negations)
    : algebra_(algebra), negations_(negations) {
    std::unordered_set<PolyId> seen;
    Combined combined;
    for (PolyId p : sources) close(p, seen, combined);
    for (auto& poly : polys_)
        for (auto& [m, c] : poly) {
            Bound bound;
            for (auto& x : algebra_.parts(m, 0, bound)) {
                const Atom& atom = algebra_.atom(x.atom);
                if (atom.kind == Kind::size && atom.sign < 0) divided_ |= Mask{1} << atom.name;
                if (atom.kind != Kind::exponential) continue;
                for (int n = 1; n <= max_multiple; n++)
                    powers_[x.atom].insert((x.exponent * number(n)).r);
            }
        }
    std::vector<Num> products{number(1)};
    std::unordered_set<std::uint64_t> known{number(1).r};
    for (Num c : literals) {
        if (known.size() >= max_ratios) break;
        std::size_t n = products.size();
        for (std::size_t i = 0; i < n; i++) {
            Num x = products[i] * c.abs();
            if (known.insert(x.r).second) products.push_back(x);
        }
    }
    products_ = known;
    for (Num x : products)
        for (int n = 1; n <= max_multiple; n++) ratios_.insert((x * number(n)).r);
    combine(combined, products);
    for (std::size_t t = 0; t < polys_.size(); t++) {
        std::vector<MonoId> monos;
        for (auto& [m, c] : polys_[t]) monos.push_back(m);
        std::sort(monos.begin(), monos.end());
        for (MonoId m : monos) {
            for (auto& [a, e] : totals(m)) {
                if (by_atom_.size() <= static_cast<std::size_t>(a)) by_atom_.resize(a + 1);
                by_atom_[a].emplace_back(places_.size(), e);
            }
            places_.push_back({static_cast<int>(t), m});
        }
    }
}

// Adds a polynomial and, recursively, the arguments inside it; `combined`: for each product of
// exponentials, their arguments with the exponents.
void Targets::close(PolyId root, std::unordered_set<PolyId>& seen, Combined& combined) {
    std::vector<PolyId> todo{root};
    while (!todo.empty()) {
        PolyId p = todo.back();
        todo.pop_back();
        Terms terms = algebra_.terms(p);
        if (terms.empty() || !seen.insert(p).second) continue;
        polys_.emplace_back();
        for (auto& [m, c] : terms) polys_.back()[m] = {c};
        for (auto& [m, c] : terms) {
            std::map<std::pair<MonoId, int>, Num> exponents;
            Bound bound;
            for (auto& x : algebra_.parts(m, 0, bound)) {
                const Atom atom = algebra_.atom(x.atom);
                if (atom.kind == Kind::exponential) {
                    Num& sum = exponents[{atom.arg, atom.sign}];
                    sum = sum + x.exponent;
                    todo.push_back(algebra_.poly({{atom.arg, number(atom.sign)}}));
                } else if (atom.arg >= 0) {
                    todo.push_back(algebra_.as_met(x.atom));
                }
            }
            if (exponents.empty()) continue;
            combined.emplace_back();
            for (auto& [key, e] : exponents)
                combined.back().emplace_back(key.first, number(key.second) * e);
        }
    }
}

// The arguments of exponentials that were multiplied: one of them may have contributed all of a
// power, or a literal.
void Targets::combine(const Combined& combined, const std::vector<Num>& products) {
    for (auto& arguments : combined) {
        polys_.emplace_back();
        for (auto& [m, power] : arguments) {
            auto& shares = polys_.back()[m];
            shares.push_back(power);
            int atom = algebra_.find_exponential(m, power.v > 0 ? 1 : -1);
            auto known = powers_.find(atom);
            for (Num v : products) {
                Num rest = power.abs() - v;
                if (rest.zero()) continue;
                bool found = allowed(rest) && rest.v > 0;
                if (!found && known != powers_.end()) found = known->second.count(rest.r) > 0;
                if (found) shares.push_back(power.v > 0 ? v : -v);
            }
        }
    }
}

}  // namespace superopt::search
