// The pruning rule (superopt/search/part.py is the definition).
#include "part.h"

#include <algorithm>
#include <map>

namespace superopt::search {

namespace {

constexpr int max_multiple = 8;
constexpr std::size_t max_ratios = 2048;
constexpr int free_place = -1;
constexpr int part_base = 1 << 20;   // variables of the term that is placed
constexpr int other_base = 1 << 21;  // variables of its other monomials
constexpr int size_base = 1 << 22;   // axes that the context sums with nothing to carry them

}  // namespace

// The state of the search for a context: which factors of `mono` the factors `want` are.
struct Targets::Embedding {
    PolyId term;
    MonoId first;
    int poly;
    Num ratio;
    Mask axes;
    std::vector<Part> want, have;
    Bound bound;                             // of `have`
    std::vector<Num> left;                   // of `have`
    std::vector<std::pair<int, int>> places; // free axis of the term -> variable, or free_place
    std::vector<std::pair<int, int>> images; // bound variable of the term -> variable
};

struct Targets::Context {
    std::vector<Part> rest;
    Bound bound;
    std::vector<int> missing;
    std::vector<std::pair<int, int>> places;
};

namespace {

int find(const std::vector<std::pair<int, int>>& map, int key) {
    for (auto& [k, v] : map)
        if (k == key) return v;
    return -2;
}

bool has_value(const std::vector<std::pair<int, int>>& map, int value) {
    return std::any_of(map.begin(), map.end(), [&](auto& x) { return x.second == value; });
}

}  // namespace

Targets::Targets(Algebra& algebra, const std::vector<PolyId>& sources,
                 const std::vector<Num>& literals, int negations)
    : algebra_(algebra), negations_(negations) {
    std::unordered_set<PolyId> seen;
    for (PolyId p : sources) close(p, seen);
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
            Bound bound;
            for (auto& x : algebra_.parts(m, 0, bound))
                if (algebra_.atom(x.atom).kind == Kind::exponential)
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
    for (Num x : products)
        for (int n = 1; n <= max_multiple; n++) ratios_.insert((x * number(n)).r);
}

// Adds a polynomial and, recursively, the arguments inside it.
void Targets::close(PolyId root, std::unordered_set<PolyId>& seen) {
    std::vector<PolyId> todo{root};
    while (!todo.empty()) {
        PolyId p = todo.back();
        todo.pop_back();
        Terms terms = algebra_.terms(p);
        if (terms.empty() || !seen.insert(p).second) continue;
        polys_.emplace_back();
        for (auto& [m, c] : terms) polys_.back()[m] = c;
        for (auto& [m, c] : terms) {
            Terms exponents;
            Bound bound;
            for (auto& x : algebra_.parts(m, 0, bound)) {
                const Atom atom = algebra_.atom(x.atom);
                if (atom.kind == Kind::exponential) {
                    Num sign = number(atom.sign);
                    exponents.emplace_back(atom.arg, sign * x.exponent);
                    todo.push_back(algebra_.poly({{atom.arg, sign}}));
                } else if (atom.arg >= 0) {
                    todo.push_back(algebra_.as_met(x.atom));
                }
            }
            if (!exponents.empty()) todo.push_back(algebra_.poly(exponents));
        }
    }
}

// Exponents of each atom over the whole monomial: a cheap necessary condition.
const Totals& Targets::totals(MonoId m) {
    auto [it, fresh] = totals_.try_emplace(m);
    if (fresh) {
        std::map<int, Num> sum;
        Bound bound;
        for (auto& x : algebra_.parts(m, 0, bound)) sum[x.atom] = sum[x.atom] + x.exponent;
        it->second.assign(sum.begin(), sum.end());
        held_ += bytes_of(it->second) + table_entry;
    }
    return it->second;
}

bool Targets::may_hold(MonoId mono, MonoId part) {
    const auto& want = totals(part);
    const auto& have = totals_.at(mono);
    auto h = have.begin();
    for (auto& [a, e] : want) {
        while (h != have.end() && h->first < a) ++h;
        if (h == have.end() || h->first != a || h->second < e) return false;
    }
    return true;
}

// Whether the powers of exponentials in a monomial could come from the sources' literals.
bool Targets::plausible(MonoId m) {
    const Totals& atoms = totals(m);
    if (std::none_of(atoms.begin(), atoms.end(), [&](auto& x) {
            return algebra_.atom(x.first).kind == Kind::exponential;
        }))
        return true;
    Bound bound;
    for (auto& x : algebra_.parts(m, 0, bound)) {
        if (algebra_.atom(x.atom).kind != Kind::exponential || allowed(x.exponent)) continue;
        auto known = powers_.find(x.atom);
        if (known == powers_.end() || !known->second.count(x.exponent.r)) return false;
    }
    return true;
}

bool Targets::is_part(PolyId term) {
    queries++;
    if (memo_.size() <= static_cast<std::size_t>(term)) {
        held_ -= memo_.capacity();
        memo_.resize(term + 64, -1);
        held_ += memo_.capacity();
    }
    if (memo_[term] < 0) memo_[term] = !algebra_.terms(term).empty() && search(term);
    return memo_[term];
}

bool Targets::search(PolyId term) {
    Embedding e;
    e.term = term;
    const Terms terms = algebra_.terms(term);
    bool all_positive = true;
    for (auto& [m, c] : terms) {
        if (!allowed(c)) return false;
        all_positive = all_positive && c.v > 0;
    }
    std::size_t best = 0;
    for (std::size_t i = 1; i < terms.size(); i++) {
        const Mono &x = algebra_.mono(terms[i].first), &y = algebra_.mono(terms[best].first);
        int a = __builtin_popcountll(x.axes), b = __builtin_popcountll(y.axes);
        if (a > b || (a == b && totals(terms[best].first).size() < totals(terms[i].first).size()))
            best = i;
    }
    e.first = terms[best].first;
    Num own = terms[best].second;
    bool others = terms.size() > 1;
    Bits polys = where(e.first).polys;
    for (auto& [m, c] : terms) {
        const Bits& here = where(m).polys;
        std::uint64_t any = 0;
        for (std::size_t k = 0; k < polys.size(); k++) any |= polys[k] &= here[k];
        if (!any || !plausible(m)) return false;
    }
    const Bits places = where(e.first).places;
    const Num inverse = own == number(1) ? own : own.inverse();
    Bound scratch;
    e.want = algebra_.parts(e.first, part_base, scratch);
    std::stable_sort(e.want.begin(), e.want.end(), [](auto& x, auto& y) {
        return !x.variables.empty() && y.variables.empty();
    });
    e.axes = algebra_.axes(term);
    for (std::size_t i = 0; i < places_.size(); i++) {
        if (!(places[i / 64] >> i % 64 & 1)) continue;
        const Place place = places_[i];
        if (!(polys[place.poly / 64] >> place.poly % 64 & 1)) continue;
        auto& poly = polys_[place.poly];
        if (poly.size() < terms.size() || !may_hold(place.mono, e.first)) continue;
        Num there = poly.at(place.mono);
        e.ratio = there * inverse;
        if (!allowed(e.ratio)) continue;
        if (e.ratio.v < 0 && !all_positive && (!others || negations_ < 2)) continue;
        if (own.v < 0 && there.v > 0 && !others) continue;
        e.poly = place.poly;
        e.bound.clear();
        e.have = algebra_.parts(place.mono, 0, e.bound);
        e.left.clear();
        for (auto& x : e.have) e.left.push_back(x.exponent);
        e.places.clear();
        e.images.clear();
        if (embed(e, 0)) return true;
    }
    return false;
}

// Places the factors from `i` on; backtracks.
bool Targets::embed(Embedding& e, std::size_t i) {
    if (i == e.want.size()) return complete(e);
    const Part& x = e.want[i];
    for (std::size_t j = 0; j < e.have.size(); j++) {
        const Part& t = e.have[j];
        if (t.atom != x.atom || e.left[j] < x.exponent) continue;
        std::size_t places = e.places.size(), images = e.images.size();
        bool fits = true;
        for (Mask axes = algebra_.atom(x.atom).axes; axes && fits; axes &= axes - 1) {
            int axis = __builtin_ctzll(axes);
            int mine = x.at(axis), theirs = t.at(axis);
            if (mine < 0) {
                int known = find(e.places, axis);
                if (known != -2)
                    fits = known == theirs;
                else if (theirs >= 0 && has_value(e.images, theirs))
                    fits = false;
                else
                    e.places.emplace_back(axis, theirs);
            } else if (theirs < 0) {
                fits = false;
            } else if (int known = find(e.images, mine); known != -2) {
                fits = known == theirs;
            } else if (has_value(e.images, theirs) || has_value(e.places, theirs)) {
                fits = false;
            } else {
                e.images.emplace_back(mine, theirs);
            }
        }
        if (fits) {
            Num before = e.left[j];
            e.left[j] = before - x.exponent;
            if (embed(e, i + 1)) return true;
            e.left[j] = before;
        }
        e.places.resize(places);
        e.images.resize(images);
    }
    return false;
}

// All factors are placed: no factor that is left may carry a captured variable, and the other
// monomials of the term must be found under the same context.
bool Targets::complete(Embedding& e) {
    for (std::size_t j = 0; j < e.have.size(); j++)
        if (!e.left[j].zero())
            for (auto& [axis, v] : e.have[j].variables)
                if (has_value(e.images, v)) return false;
    if (algebra_.terms(e.term).size() == 1) return true;
    Context c;
    for (std::size_t j = 0; j < e.have.size(); j++)
        if (!e.left[j].zero()) c.rest.push_back({e.have[j].atom, e.left[j], e.have[j].variables});
    for (auto& b : e.bound)
        if (!has_value(e.images, b.first)) c.bound.push_back(b);
    for (Mask axes = e.axes; axes; axes &= axes - 1) {
        int axis = __builtin_ctzll(axes);
        if (find(e.places, axis) == -2) c.missing.push_back(axis);
    }
    c.places = e.places;
    return bind_missing(e, c, 0);
}

// What the axes that the first monomial lacks are in the context: free, or summed.
bool Targets::bind_missing(Embedding& e, Context& c, std::size_t i) {
    if (i == c.missing.size()) return others_hold(e, c);
    int axis = c.missing[i];
    auto attempt = [&](int place) {
        c.places.emplace_back(axis, place);
        bool found = bind_missing(e, c, i + 1);
        c.places.pop_back();
        return found;
    };
    if (attempt(free_place)) return true;
    Bound bound = c.bound;
    for (auto& [v, k] : bound)
        if (k == axis && !has_value(c.places, v) && attempt(v)) return true;
    int size = algebra_.find_size(axis, 1);
    for (std::size_t j = 0; j < c.rest.size(); j++) {
        if (c.rest[j].atom != size) continue;
        Context other = c;
        other.rest[j].exponent = other.rest[j].exponent - number(1);
        if (other.rest[j].exponent.zero())
            other.rest.erase(other.rest.begin() + static_cast<std::ptrdiff_t>(j));
        other.bound.emplace_back(size_base + axis, axis);
        other.places.emplace_back(axis, size_base + axis);
        return bind_missing(e, other, i + 1);
    }
    return false;
}

bool Targets::others_hold(Embedding& e, const Context& c) {
    const Terms terms = algebra_.terms(e.term);
    for (auto& [m, x] : terms) {
        if (m == e.first) continue;
        MonoId there = placed(m, e, c);
        auto it = polys_[e.poly].find(there);
        if (it == polys_[e.poly].end() || !(it->second == e.ratio * x)) return false;
    }
    return true;
}

MonoId Targets::placed(MonoId m, const Embedding&, const Context& c) {
    Bound bound = c.bound;
    std::vector<Part> all = algebra_.parts(m, other_base, bound);
    for (auto& x : all)
        for (Mask axes = algebra_.atom(x.atom).axes; axes; axes &= axes - 1) {
            int axis = __builtin_ctzll(axes);
            if (x.at(axis) >= 0) continue;
            int place = find(c.places, axis);
            if (place >= 0) x.variables.emplace_back(axis, place);
        }
    all.insert(all.end(), c.rest.begin(), c.rest.end());
    return algebra_.assemble(all, bound);
}

}  // namespace superopt::search
