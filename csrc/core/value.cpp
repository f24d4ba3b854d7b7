// Values at random points (superopt/search/values.py is the definition).
#include "value.h"

#include <algorithm>
#include <initializer_list>

namespace superopt::search {

namespace {

using Wide = unsigned __int128;

Word mul_mod(Word a, Word b, Word p) { return static_cast<Word>(static_cast<Wide>(a) * b % p); }

Word pow_mod(Word a, Word e, Word p) {
    Word out = 1 % p;
    for (a %= p; e; e >>= 1, a = mul_mod(a, a, p))
        if (e & 1) out = mul_mod(out, a, p);
    return out;
}

Word mix(std::initializer_list<Word> words) {
    Word h = 0;
    for (Word w : words) {
        h = (h ^ w) + 0x9E3779B97F4A7C15u;
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
        h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
        h ^= h >> 31;
    }
    return h;
}

}  // namespace

Field::Field(const Problem& problem) : problem_(problem) {
    int points = static_cast<int>(problem.primes.size());
    for (int i = 0; i < points; i++) all_.push_back(i);
    for (int a = 0; a < problem.axes; a++) size_.push_back(problem.reducible >> a & 1 ? 2 : 1);
    draws_.resize(problem.primes.size());
    for (int i = 0; i < points; i++) {
        auto& chain = problem.primes[i];
        omega_.emplace_back();
        for (std::size_t level = 0; level + 1 < chain.size(); level++) {
            Word p = chain[level];
            Word g = mix({problem.seed, 1, static_cast<Word>(i), level}) % (p - 3) + 2;
            std::vector<Word> squares{mul_mod(g, g, p)};
            while (squares.size() < 64) squares.push_back(mul_mod(squares.back(), squares.back(), p));
            omega_.back().push_back(std::move(squares));
        }
    }
    std::size_t n = problem.steps.size();
    needed_.assign(n, 1);
    for (std::size_t k = n; k-- > 0;) {
        auto& s = problem.steps[k];
        int more = 0;
        if (s.kind == StepKind::function)
            for (auto& l : problem.functions[s.index]) more += l.first == Law::exponential;
        for (int a : s.args) needed_[a] = std::max(needed_[a], needed_[k] + more);
    }
    for (auto& s : problem.steps) {
        std::set<Leaf> here;
        for (int a : s.args) here.insert(supports_[a].begin(), supports_[a].end());
        if (s.kind == StepKind::leaf) here.insert({2, s.index});
        if (s.kind == StepKind::size || s.kind == StepKind::reduce) here.insert({3, s.index});
        supports_.push_back(std::move(here));
    }
    for (int i = 0; i < points; i++) settle(i);
}

// Draws the inputs of a point until every root of the source is taken of a residue.
void Field::settle(int point) {
    std::vector<int> roots;
    for (std::size_t n = 0; n < problem_.steps.size(); n++) {
        auto& s = problem_.steps[n];
        if (s.kind != StepKind::function || supports_[n].empty()) continue;
        for (auto& l : problem_.functions[s.index])
            if (l.first == Law::root) {
                roots.push_back(static_cast<int>(n));
                break;
            }
    }
    for (int k = 0; k < (roots.empty() ? 0 : problem_.attempts); k++) {
        int bad = first_bad(point, roots);
        if (bad < 0) return;
        std::set<Leaf> settled;
        for (int n : roots) {
            if (n == bad) break;
            settled.insert(supports_[n].begin(), supports_[n].end());
        }
        std::vector<Leaf> fresh;
        for (auto& leaf : supports_[bad])
            if (!settled.count(leaf)) fresh.push_back(leaf);
        if (fresh.empty()) fresh.assign(supports_[bad].begin(), supports_[bad].end());
        for (auto& leaf : fresh) draws_[point][leaf]++;
    }
    keyed_roots += !roots.empty();
}

int Field::first_bad(int point, const std::vector<int>& roots) const {
    std::vector<std::optional<Value>> values;
    values.reserve(problem_.steps.size());  // arguments are pointers into it
    Points one{point};
    std::size_t next = 0;
    for (std::size_t n = 0; n < problem_.steps.size() && next < roots.size(); n++) {
        auto& s = problem_.steps[n];
        std::vector<const Value*> args;
        bool defined = true;
        for (int a : s.args) {
            defined = defined && values[a].has_value();
            args.push_back(values[a] ? &*values[a] : nullptr);
        }
        values.push_back(defined ? step(n, args, one) : std::nullopt);
        if (roots[next] != static_cast<int>(n)) continue;
        next++;
        if (!defined) continue;
        std::optional<Value> inner = *args[0];
        for (auto& [l, key] : problem_.functions[s.index]) {
            if (!inner) break;
            if (l == Law::root)
                for (int level = 0; level < std::min(needed_[n], inner->levels); level++) {
                    Word p = problem_.primes[point][level];
                    for (std::size_t c = 0; c < inner->cells; c++)
                        if (pow_mod(inner->data[level * inner->cells + c], (p - 1) / 2, p) == p - 1)
                            return static_cast<int>(n);
                }
            inner = law(l, key, *inner, one);
        }
    }
    return -1;
}

Word Field::draw(Leaf leaf, int point, int level, std::size_t cell) const {
    auto it = draws_[point].find(leaf);
    Word times = it == draws_[point].end() ? 0 : it->second;
    return mix({problem_.seed, static_cast<Word>(leaf.first), static_cast<Word>(leaf.second),
                static_cast<Word>(point), static_cast<Word>(level), times, cell}) %
           problem_.primes[point][level];
}

std::size_t Field::cells(const std::vector<int>& axes) const {
    std::size_t out = 1;
    for (int a : axes) out *= static_cast<std::size_t>(size_[a]);
    return out;
}

Value Field::blank(std::vector<int> axes, int levels, const Points& points) const {
    Value v;
    v.cells = cells(axes);
    v.axes = std::move(axes);
    v.levels = levels;
    v.data.resize(points.size() * static_cast<std::size_t>(levels) * v.cells);
    return v;
}

std::vector<std::optional<Value>> Field::source() const {
    std::vector<std::optional<Value>> values;
    for (std::size_t n = 0; n < problem_.steps.size(); n++) {
        std::vector<const Value*> args;
        bool defined = true;
        for (int a : problem_.steps[n].args) {
            defined = defined && values[a].has_value();
            args.push_back(values[a] ? &*values[a] : nullptr);
        }
        values.push_back(defined ? step(n, args, all_) : std::nullopt);
    }
    return values;
}

std::optional<Value> Field::step(std::size_t n, const std::vector<const Value*>& args,
                                 const Points& points) const {
    auto& s = problem_.steps[n];
    switch (s.kind) {
        case StepKind::mul: return both(*args[0], *args[1], true, points);
        case StepKind::add: return both(*args[0], *args[1], false, points);
        case StepKind::reduce: return reduce(*args[0], s.index, points);
        case StepKind::function: {
            std::optional<Value> v = *args[0];
            for (auto& [l, key] : problem_.functions[s.index])
                if (v) v = law(l, key, *v, points);
            return v;
        }
        default: break;
    }
    int levels = static_cast<int>(problem_.primes[0].size());
    std::vector<int> axes;
    if (s.kind == StepKind::leaf) axes = problem_.leaves[s.index];
    Value v = blank(axes, levels, points);
    std::size_t at = 0;
    for (int i : points)
        for (int level = 0; level < levels; level++)
            for (std::size_t c = 0; c < v.cells; c++, at++) {
                Word p = problem_.primes[i][level];
                if (s.kind == StepKind::leaf) {
                    v.data[at] = draw({2, s.index}, i, level, c);
                } else if (s.kind == StepKind::size) {
                    for (int k = 0; k < size_[s.index]; k++)
                        v.data[at] = (v.data[at] + draw({3, s.index}, i, level, k)) % p;
                } else {
                    v.data[at] = s.residues[i][level];
                }
            }
    return v;
}

Value Field::both(const Value& x, const Value& y, bool product, const Points& points) const {
    std::vector<int> axes;
    std::set_union(x.axes.begin(), x.axes.end(), y.axes.begin(), y.axes.end(),
                   std::back_inserter(axes));
    Value v = blank(axes, std::min(x.levels, y.levels), points);
    // Where each cell of the result lies in both arguments.
    std::vector<std::pair<std::size_t, std::size_t>> from(v.cells);
    for (std::size_t c = 0; c < v.cells; c++) {
        std::size_t rest = c, ix = 0, iy = 0, sx = 1, sy = 1;
        for (std::size_t k = v.axes.size(); k-- > 0;) {
            int axis = v.axes[k];
            std::size_t at = rest % static_cast<std::size_t>(size_[axis]);
            rest /= static_cast<std::size_t>(size_[axis]);
            if (std::binary_search(x.axes.begin(), x.axes.end(), axis)) {
                ix += at * sx;
                sx *= static_cast<std::size_t>(size_[axis]);
            }
            if (std::binary_search(y.axes.begin(), y.axes.end(), axis)) {
                iy += at * sy;
                sy *= static_cast<std::size_t>(size_[axis]);
            }
        }
        from[c] = {ix, iy};
    }
    std::size_t out = 0;
    for (std::size_t n = 0; n < points.size(); n++)
        for (int level = 0; level < v.levels; level++) {
            Word p = problem_.primes[points[n]][level];
            const Word* a = &x.data[(n * x.levels + level) * x.cells];
            const Word* b = &y.data[(n * y.levels + level) * y.cells];
            for (auto& [ix, iy] : from)
                v.data[out++] = product ? mul_mod(a[ix], b[iy], p) : (a[ix] + b[iy]) % p;
        }
    return v;
}

Value Field::reduce(const Value& x, int axis, const Points& points) const {
    std::vector<int> axes;
    std::size_t inner = 1;
    bool carried = false;
    for (int a : x.axes) {
        if (a == axis)
            carried = true;
        else
            axes.push_back(a);
        if (a > axis) inner *= static_cast<std::size_t>(size_[a]);
    }
    Value v = blank(axes, x.levels, points);
    auto width = static_cast<std::size_t>(size_[axis]);
    for (std::size_t n = 0; n < points.size(); n++)
        for (int level = 0; level < v.levels; level++) {
            Word p = problem_.primes[points[n]][level];
            const Word* a = &x.data[(n * x.levels + level) * x.cells];
            Word* out = &v.data[(n * v.levels + level) * v.cells];
            for (std::size_t k = 0; k < width; k++) {
                Word w = draw({3, axis}, points[n], level, k);
                for (std::size_t c = 0; c < v.cells; c++) {
                    std::size_t from = carried ? (c / inner * width + k) * inner + c % inner : c;
                    out[c] = (out[c] + mul_mod(a[from], w, p)) % p;
                }
            }
        }
    return v;
}

std::optional<Value> Field::apply(const Chain& chain, const Value& x) const {
    std::optional<Value> v = x;
    for (auto& [l, key] : chain)
        if (v) v = law(l, key, *v, all_);
    return v;
}

Word Field::omega_power(int point, int level, Word e) const {
    Word out = 1, p = problem_.primes[point][level];
    auto& squares = omega_[point][level];
    for (int i = 0; e; e >>= 1, i++)
        if (e & 1) out = mul_mod(out, squares[i], p);
    return out;
}

std::optional<Value> Field::law(Law law, Word key, const Value& x, const Points& points) const {
    bool shift = law == Law::exponential && x.levels > 1;
    Value v = blank(x.axes, x.levels - shift, points);
    std::size_t at = 0;
    for (std::size_t n = 0; n < points.size(); n++)
        for (int level = 0; level < v.levels; level++)
            for (std::size_t c = 0; c < v.cells; c++, at++) {
                int i = points[n];
                Word p = problem_.primes[i][level];
                Word u = x.data[(n * x.levels + level + shift) * x.cells + c];
                Word where = static_cast<Word>(level), point = static_cast<Word>(i);
                if (shift) {
                    v.data[at] = omega_power(i, level, u);
                } else if (law == Law::reciprocal) {
                    if (u == 0) return std::nullopt;
                    v.data[at] = pow_mod(u, p - 2, p);
                } else if (law == Law::root) {
                    Word r = pow_mod(u, (p + 1) / 4, p);
                    v.data[at] = mul_mod(r, r, p) == u ? r
                                                       : mix({problem_.seed, 6, point, where, u}) % p;
                } else {
                    Word word = law == Law::keyed ? key : 4;
                    v.data[at] = mix({problem_.seed, 5, word, point, where, u}) % p;
                }
            }
    return v;
}

Fingerprint Field::fingerprint(const Value& v) const {
    Fingerprint out{v.axes.size()};
    for (int a : v.axes) out.push_back(static_cast<Word>(a));
    for (std::size_t n = 0; n < all_.size(); n++) {
        auto at = v.data.begin() + static_cast<std::ptrdiff_t>(n * v.levels * v.cells);
        out.insert(out.end(), at, at + static_cast<std::ptrdiff_t>(v.cells));
    }
    return out;
}

}  // namespace superopt::search
