// Normal forms of the abstract algebra (superopt/search/abstract.py is the definition).
#include "abstract.h"

#include <algorithm>
#include <cmath>

namespace superopt::search {

namespace {

constexpr std::uint64_t prime = (std::uint64_t{1} << 61) - 1;
using Wide = unsigned __int128;

std::uint64_t mul_mod(std::uint64_t a, std::uint64_t b) {
    return static_cast<std::uint64_t>(static_cast<Wide>(a) * b % prime);
}

template <class F>
void each_axis(Mask axes, F f) {
    for (; axes; axes &= axes - 1) f(__builtin_ctzll(axes));
}

}  // namespace

Num Num::operator+(const Num& o) const { return {(r + o.r) % prime, v + o.v}; }
Num Num::operator-() const { return {r ? prime - r : 0, -v}; }
Num Num::operator-(const Num& o) const { return *this + -o; }
Num Num::operator*(const Num& o) const { return {mul_mod(r, o.r), v * o.v}; }
Num Num::inverse() const {
    std::uint64_t out = 1, b = r;
    for (std::uint64_t e = prime - 2; e; e >>= 1, b = mul_mod(b, b))
        if (e & 1) out = mul_mod(out, b);
    return {out, 1 / v};
}
Num number(std::int64_t n) {
    auto m = static_cast<std::uint64_t>(n < 0 ? -n : n);
    Num out{m % prime, static_cast<double>(m)};
    return n < 0 ? -out : out;
}

std::size_t KeyHash::operator()(const Key& k) const {
    std::uint64_t h = 0x9E3779B97F4A7C15u;
    for (std::uint64_t w : k) {
        h = (h ^ w) * 0xBF58476D1CE4E5B9u;
        h ^= h >> 29;
    }
    return static_cast<std::size_t>(h);
}

// -- interning ------------------------------------------------------------------------------------

int Algebra::intern(const Atom& a) {
    Key k{static_cast<std::uint64_t>(a.kind), static_cast<std::uint64_t>(a.sign + 1), a.name,
          static_cast<std::uint64_t>(a.arg), a.axes};
    auto [it, fresh] = atom_ids_.try_emplace(std::move(k), static_cast<int>(atoms_.size()));
    if (fresh) {
        atoms_.push_back(a);
        held_ += sizeof(Atom) + bytes_of(it->first) + table_entry;
    }
    return it->second;
}

int Algebra::intern(Group g) {
    Key k{g.bound.size()};
    for (auto& [axis, count] : g.bound) k.push_back(static_cast<std::uint64_t>(axis * 4096 + count));
    for (auto& f : g.factors) {
        k.insert(k.end(), {static_cast<std::uint64_t>(f.atom), f.exponent.r, f.binding.size()});
        for (auto& [axis, n] : f.binding) k.push_back(static_cast<std::uint64_t>(axis * 4096 + n));
    }
    auto [it, fresh] = group_ids_.try_emplace(std::move(k), static_cast<int>(groups_.size()));
    if (fresh) {
        for (auto& f : g.factors) {
            Mask free = atoms_[f.atom].axes;
            for (auto& [axis, n] : f.binding) free &= ~(Mask{1} << axis);
            g.axes |= free;
        }
        held_ += bytes_of(g.bound) + bytes_of(g.factors) + bytes_of(it->first) + table_entry;
        for (auto& f : g.factors) held_ += bytes_of(f.binding);
        groups_.push_back(std::move(g));
    }
    return it->second;
}

MonoId Algebra::intern(Mono m) {
    Key k{m.free.size()};
    for (auto& [a, e] : m.free) k.insert(k.end(), {static_cast<std::uint64_t>(a), e.r});
    for (int g : m.groups) k.push_back(static_cast<std::uint64_t>(g));
    auto [it, fresh] = mono_ids_.try_emplace(std::move(k), static_cast<int>(monos_.size()));
    if (fresh) {
        m.axes = 0;
        for (auto& [a, e] : m.free) m.axes |= atoms_[a].axes;
        for (int g : m.groups) m.axes |= groups_[g].axes;
        held_ += bytes_of(m.free) + bytes_of(m.groups) + bytes_of(it->first) + table_entry;
        monos_.push_back(std::move(m));
    }
    return it->second;
}

PolyId Algebra::poly(Terms terms) {
    std::sort(terms.begin(), terms.end(), [](auto& a, auto& b) { return a.first < b.first; });
    Terms out;
    for (auto& t : terms) {
        if (!out.empty() && out.back().first == t.first)
            out.back().second = out.back().second + t.second;
        else
            out.push_back(t);
    }
    std::erase_if(out, [](auto& t) { return t.second.zero(); });
    Key k;
    for (auto& [m, c] : out) k.insert(k.end(), {static_cast<std::uint64_t>(m), c.r});
    auto [it, fresh] = poly_ids_.try_emplace(std::move(k), static_cast<int>(polys_.size()));
    if (fresh) {
        held_ += bytes_of(out) + bytes_of(it->first) + table_entry;
        polys_.push_back(std::move(out));
    }
    return it->second;
}

PolyId Algebra::of(int atom, Num e) { return poly({{intern(Mono{{{atom, e}}, {}}), number(1)}}); }
PolyId Algebra::of_group(int g) { return poly({{intern(Mono{{}, {g}}), number(1)}}); }

PolyId Algebra::leaf(std::uint64_t name, Mask axes) {
    return of(intern(Atom{Kind::leaf, 1, name, -1, axes}), number(1));
}
PolyId Algebra::size(int axis, int sign) {
    return of(size_atom(axis, sign), number(1));
}
PolyId Algebra::constant(Num c) { return poly({{intern(Mono{}), c}}); }

int Algebra::find_size(int axis, int sign) const {
    Key k{static_cast<std::uint64_t>(Kind::size), static_cast<std::uint64_t>(sign + 1),
          static_cast<std::uint64_t>(axis), static_cast<std::uint64_t>(-1), 0};
    auto it = atom_ids_.find(k);
    return it == atom_ids_.end() ? -1 : it->second;
}

int Algebra::size_atom(int axis, int sign) {
    return intern(Atom{Kind::size, sign, static_cast<std::uint64_t>(axis), -1, 0});
}

int Algebra::find_exponential(MonoId arg, int sign) const {
    Key k{static_cast<std::uint64_t>(Kind::exponential), static_cast<std::uint64_t>(sign + 1), 0,
          static_cast<std::uint64_t>(arg), monos_[arg].axes};
    auto it = atom_ids_.find(k);
    return it == atom_ids_.end() ? -1 : it->second;
}

PolyId Algebra::as_met(int atom) const {
    auto it = as_met_.find(atom);
    return it == as_met_.end() ? atoms_[atom].arg : it->second;
}

Mask Algebra::axes(PolyId p) const {
    Mask out = 0;
    for (auto& [m, c] : polys_[p]) out |= monos_[m].axes;
    return out;
}

// -- ring -----------------------------------------------------------------------------------------

PolyId Algebra::add(PolyId a, PolyId b) {
    Terms t = polys_[a];
    t.insert(t.end(), polys_[b].begin(), polys_[b].end());
    PolyId sum = poly(std::move(t));
    if (polys_[sum].size() > max_monomials) throw TooLarge{};
    return sum;
}

PolyId Algebra::mul(PolyId a, PolyId b) {
    if (polys_[a].size() * polys_[b].size() > max_monomials) throw TooLarge{};
    Terms t;
    for (std::size_t i = 0; i < polys_[a].size(); i++)
        for (std::size_t j = 0; j < polys_[b].size(); j++) {
            auto [m, x] = polys_[a][i];
            auto [n, y] = polys_[b][j];
            t.emplace_back(mono_mul(m, n), x * y);
        }
    return poly(std::move(t));
}

MonoId Algebra::mono_mul(MonoId a, MonoId b) {
    if (a > b) std::swap(a, b);
    std::uint64_t key = static_cast<std::uint64_t>(a) << 32 | static_cast<std::uint32_t>(b);
    if (auto it = products_.find(key); it != products_.end()) return it->second;
    Mono out = monos_[a];
    const Mono& n = monos_[b];
    for (auto& f : n.free) {
        auto it = std::lower_bound(out.free.begin(), out.free.end(), f.first,
                                   [](auto& x, int id) { return x.first < id; });
        if (it != out.free.end() && it->first == f.first)
            it->second = it->second + f.second;
        else
            out.free.insert(it, f);
    }
    out.groups.insert(out.groups.end(), n.groups.begin(), n.groups.end());
    std::sort(out.groups.begin(), out.groups.end());
    cancel(out.free);
    MonoId id = intern(std::move(out));
    products_.emplace(key, id);
    held_ += table_entry;
    return id;
}

void Algebra::cancel(std::vector<std::pair<int, Num>>& free) const {
    for (auto& [a, e] : free) {
        if (atoms_[a].kind != Kind::size || atoms_[a].sign < 0) continue;
        int back = find_size(static_cast<int>(atoms_[a].name), -1);
        for (auto& [b, f] : free) {
            if (b != back) continue;
            Num least = f < e ? f : e;
            e = e - least;
            f = f - least;
        }
    }
    std::erase_if(free, [](auto& f) { return f.second.zero(); });
}

PolyId Algebra::reduce(PolyId p, int axis) {
    Terms out;
    for (std::size_t i = 0; i < polys_[p].size(); i++) {
        auto [m, c] = polys_[p][i];
        Bound bound;
        std::vector<Part> all = parts(m, 1, bound);
        for (auto& x : all)
            if ((atoms_[x.atom].axes >> axis & 1) && x.at(axis) < 0) x.variables.emplace_back(axis, 0);
        bound.emplace_back(0, axis);
        out.emplace_back(assemble(all, bound), c);
    }
    return poly(std::move(out));
}

// -- taking apart and putting together ------------------------------------------------------------

std::vector<Part> Algebra::parts(MonoId m, int base, Bound& bound) const {
    std::vector<Part> out;
    for (auto& [a, e] : monos_[m].free) out.push_back({a, e, {}});
    for (int g : monos_[m].groups) {
        std::vector<std::pair<int, int>> first;  // axis -> variable of its number 0
        for (auto& [axis, count] : groups_[g].bound) {
            first.emplace_back(axis, base);
            for (int n = 0; n < count; n++) bound.emplace_back(base++, axis);
        }
        for (auto& f : groups_[g].factors) {
            Part x{f.atom, f.exponent, {}};
            for (auto& [axis, n] : f.binding)
                for (auto& [k, v] : first)
                    if (k == axis) x.variables.emplace_back(axis, v + n);
            out.push_back(std::move(x));
        }
    }
    return out;
}

MonoId Algebra::assemble(const std::vector<Part>& all, const Bound& bound) {
    std::map<int, Num> powers;
    std::vector<std::pair<std::vector<int>, std::vector<const Part*>>> sets;
    for (auto& x : all) {
        if (x.variables.empty()) {
            powers[x.atom] = powers[x.atom] + x.exponent;
            continue;
        }
        std::vector<int> mine;
        for (auto& [k, v] : x.variables) mine.push_back(v);
        std::vector<const Part*> members{&x};
        for (std::size_t i = 0; i < sets.size();) {
            bool meets = std::any_of(mine.begin(), mine.end(), [&](int v) {
                return std::count(sets[i].first.begin(), sets[i].first.end(), v) > 0;
            });
            if (!meets) {
                i++;
                continue;
            }
            for (int v : sets[i].first)
                if (!std::count(mine.begin(), mine.end(), v)) mine.push_back(v);
            members.insert(members.begin(), sets[i].second.begin(), sets[i].second.end());
            sets.erase(sets.begin() + static_cast<std::ptrdiff_t>(i));
            i = 0;
        }
        sets.emplace_back(std::move(mine), std::move(members));
    }
    for (auto& [v, axis] : bound) {
        bool carried = std::any_of(sets.begin(), sets.end(), [v = v](auto& s) {
            return std::count(s.first.begin(), s.first.end(), v) > 0;
        });
        if (carried) continue;
        int a = size_atom(axis, 1);
        powers[a] = powers[a] + number(1);
    }
    Mono out;
    out.free.assign(powers.begin(), powers.end());
    cancel(out.free);
    for (auto& s : sets) out.groups.push_back(group(s.second));
    std::sort(out.groups.begin(), out.groups.end());
    return intern(std::move(out));
}

int Algebra::group(const std::vector<const Part*>& members) {
    std::map<int, std::vector<int>> by_axis;
    for (auto* x : members)
        for (auto& [k, v] : x->variables) {
            auto& known = by_axis[k];
            if (!std::count(known.begin(), known.end(), v)) known.push_back(v);
        }
    double orders = 1;
    Group best;
    for (auto& [k, vs] : by_axis) {
        best.bound.emplace_back(k, static_cast<int>(vs.size()));
        std::sort(vs.begin(), vs.end());
        for (std::size_t i = 0; i < vs.size(); i++) orders *= static_cast<double>(i + 1);
    }
    if (orders > 5040) throw TooLarge{};
    auto less = [](const Factor& a, const Factor& b) {
        if (a.atom != b.atom) return a.atom < b.atom;
        if (a.binding != b.binding) return a.binding < b.binding;
        return a.exponent.r < b.exponent.r;
    };
    auto same = [](const Factor& a, const Factor& b) {
        return a.atom == b.atom && a.binding == b.binding && a.exponent == b.exponent;
    };
    bool first = true;
    for (;;) {
        std::vector<Factor> here;
        for (auto* x : members) {
            Factor f{x->atom, {}, x->exponent};
            for (auto& [k, v] : x->variables) {
                auto& vs = by_axis[k];
                auto at = std::find(vs.begin(), vs.end(), v) - vs.begin();
                f.binding.emplace_back(k, static_cast<int>(at));
            }
            std::sort(f.binding.begin(), f.binding.end());
            auto it = std::find_if(here.begin(), here.end(), [&](const Factor& o) {
                return o.atom == f.atom && o.binding == f.binding;
            });
            if (it == here.end())
                here.push_back(std::move(f));
            else
                it->exponent = it->exponent + f.exponent;
        }
        std::sort(here.begin(), here.end(), less);
        if (first || std::lexicographical_compare(here.begin(), here.end(), best.factors.begin(),
                                                  best.factors.end(), [&](auto& a, auto& b) {
                                                      return !same(a, b) && less(a, b);
                                                  }))
            best.factors = std::move(here);
        first = false;
        // The next numbering: permute the variables of one axis, carry over to the next axis.
        bool more = false;
        for (auto& [k, vs] : by_axis) {
            more = std::next_permutation(vs.begin(), vs.end());
            if (more) break;
        }
        if (!more) break;
    }
    return intern(std::move(best));
}

}  // namespace superopt::search
