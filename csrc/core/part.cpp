// The pruning rule (superopt/search/part.py is the definition).
#include "part.h"

#include <algorithm>
#include <map>

namespace superopt::search {

namespace {

constexpr int free_place = -1;
constexpr int part_base = 1 << 20;   // variables of the term that is placed
constexpr int other_base = 1 << 21;  // variables of its other monomials
constexpr int size_base = 1 << 22;   // axes that the context sums with nothing to carry them

// Powers of sizes, by axis; the size in a denominator counts down.
using Sizes = std::vector<std::pair<int, int>>;

int& at(Sizes& sizes, int axis) {
    for (auto& [k, e] : sizes)
        if (k == axis) return e;
    return sizes.emplace_back(axis, 0).second;
}

Sizes sizes_of(const Algebra& algebra, MonoId m) {
    Sizes out;
    for (auto& [a, e] : algebra.mono(m).free) {
        const Atom& atom = algebra.atom(a);
        if (atom.kind != Kind::size) continue;
        out.emplace_back(static_cast<int>(atom.name), atom.sign * static_cast<int>(e.v + 0.5));
    }
    return out;
}

void drop_sizes(const Algebra& algebra, std::vector<Part>& parts) {
    std::erase_if(parts, [&](auto& x) { return algebra.atom(x.atom).kind == Kind::size; });
}

}  // namespace

// The state of the search for a context: which factors of `mono` the factors `want` are.
struct Targets::Embedding {
    PolyId term;
    MonoId first, there;  // a monomial of the term, and the one of the source that it becomes
    int poly;
    Num ratio;
    Mask axes;
    std::vector<Part> want, have;            // without sizes
    Sizes own, sizes;                        // powers of sizes in `first`, and of those left
    Bound bound;                             // of `have`
    std::vector<Num> left;                   // of `have`
    std::vector<int> alike;                  // of `have`: see `twins`
    std::vector<std::pair<int, int>> places; // free axis of the term -> variable, or free_place
    std::vector<std::pair<int, int>> images; // bound variable of the term -> variable
};

struct Targets::Context {
    std::vector<Part> rest;
    Sizes sizes;
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

// For each factor, the one before it that differs from it by the names of variables alone, which no
// other factor has; -1 where there is none. A power of a sum has many.
std::vector<int> twins(const std::vector<Part>& parts) {
    std::map<int, int> uses;
    for (auto& x : parts)
        for (auto& [axis, v] : x.variables) uses[v]++;
    auto own = [&](const Part& x) {
        return std::all_of(x.variables.begin(), x.variables.end(),
                           [&](auto& p) { return uses[p.second] == 1; });
    };
    std::vector<int> out(parts.size(), -1);
    for (std::size_t j = 1; j < parts.size(); j++)
        for (std::size_t k = j; k-- > 0 && out[j] < 0;) {
            const Part &x = parts[j], &y = parts[k];
            bool alike = x.atom == y.atom && x.exponent == y.exponent && own(x) && own(y) &&
                         std::equal(x.variables.begin(), x.variables.end(), y.variables.begin(),
                                    y.variables.end(), [](auto& p, auto& q) { return p.first == q.first; });
            if (alike) out[j] = static_cast<int>(k);
        }
    return out;
}

}  // namespace

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
        if (algebra_.atom(a).kind == Kind::size) continue;
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
    Bound scratch;
    e.want = algebra_.parts(e.first, part_base, scratch);
    drop_sizes(algebra_, e.want);
    e.own = sizes_of(algebra_, e.first);
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
        for (Num there : poly.at(place.mono)) {
            e.ratio = own == number(1) ? there : there * own.inverse();
            if (!made(there, own, e.ratio)) continue;
            if (e.ratio.v < 0 && !all_positive && (!others || negations_ < 2)) continue;
            if (attempt(e, place)) return true;
        }
    }
    return false;
}

// Looks for a context that places the first monomial here.
bool Targets::attempt(Embedding& e, const Place& place) {
    e.poly = place.poly;
    e.there = place.mono;
    e.sizes = sizes_of(algebra_, place.mono);
    for (auto& [axis, n] : e.own) at(e.sizes, axis) -= n;
    bool single = algebra_.terms(e.term).size() == 1;
    for (auto& [axis, n] : e.sizes) {
        if (n < 0 && !(divided_ >> axis & 1)) return false;
        // In a lone monomial no size may cancel.
        if (single && n * at(e.own, axis) < 0) return false;
    }
    e.bound.clear();
    e.have = algebra_.parts(place.mono, 0, e.bound);
    drop_sizes(algebra_, e.have);
    e.left.clear();
    for (auto& x : e.have) e.left.push_back(x.exponent);
    e.alike = twins(e.have);
    e.places.clear();
    e.images.clear();
    return embed(e, 0);
}

// Places the factors from `i` on; backtracks.
bool Targets::embed(Embedding& e, std::size_t i) {
    if (i == e.want.size()) return complete(e);
    const Part& x = e.want[i];
    for (std::size_t j = 0; j < e.have.size(); j++) {
        const Part& t = e.have[j];
        if (t.atom != x.atom || e.left[j] < x.exponent) continue;
        // What fails with a factor fails with one that differs by the name of its variable alone.
        int k = e.alike[j];
        if (k >= 0 && e.left[k] == e.have[k].exponent && e.left[j] == t.exponent) continue;
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
    c.sizes = e.sizes;
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
    Context other = c;
    int left = --at(other.sizes, axis);
    if (left < 0 && !(divided_ >> axis & 1)) return false;
    other.bound.emplace_back(size_base + axis, axis);
    other.places.emplace_back(axis, size_base + axis);
    return bind_missing(e, other, i + 1);
}

bool Targets::others_hold(Embedding& e, const Context& c) {
    const Terms terms = algebra_.terms(e.term);
    bool divides = std::any_of(c.sizes.begin(), c.sizes.end(), [](auto& x) { return x.second < 0; });
    for (auto& [axis, n] : e.own) divides = divides || n < 0;
    Mask everywhere = divides ? ~Mask{0} : 0;  // axes whose size cancels in every monomial
    std::vector<MonoId> met{e.there};
    for (auto& [m, x] : terms) {
        Mask cancelled = 0;
        if (m == e.first && !divides) continue;
        MonoId there = placed(m, c, cancelled);
        everywhere &= cancelled;
        if (m == e.first) continue;
        if (std::count(met.begin(), met.end(), there)) return false;  // two would merge
        met.push_back(there);
        auto it = polys_[e.poly].find(there);
        if (it == polys_[e.poly].end()) return false;
        const Num want = e.ratio * x;
        if (std::find(it->second.begin(), it->second.end(), want) == it->second.end()) return false;
        if (!made(want, x, e.ratio)) return false;
    }
    return !everywhere;
}

// The monomial in the context, and the axes whose size cancels in it.
MonoId Targets::placed(MonoId m, const Context& c, Mask& cancelled) {
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
    Mask more = 0, less = 0;
    for (auto& [axis, n] : sizes_of(algebra_, m)) (n > 0 ? more : less) |= Mask{1} << axis;
    for (auto& [axis, n] : c.sizes) {
        if (!n) continue;
        (n > 0 ? more : less) |= Mask{1} << axis;
        all.push_back({algebra_.size_atom(axis, n > 0 ? 1 : -1), number(n > 0 ? n : -n), {}});
    }
    for (auto& [v, axis] : bound) {
        if (!(less >> axis & 1)) continue;
        bool carried = std::any_of(all.begin(), all.end(),
                                   [v = v](auto& x) { return has_value(x.variables, v); });
        if (!carried) more |= Mask{1} << axis;
    }
    cancelled = more & less;
    return algebra_.assemble(all, bound);
}

}  // namespace superopt::search
