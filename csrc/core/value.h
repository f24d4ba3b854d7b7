// Values of terms at random points of chains of prime fields, over reduced sizes.
//
// The C++ twin of superopt/search/values.py, bit for bit.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "abstract.h"

namespace superopt::search {

using Word = std::uint64_t;
using Chain = std::vector<std::pair<Law, Word>>;  // laws applied in turn, with the key of a keyed one

enum class StepKind : int { leaf = 0, size = 1, constant = 2, mul = 3, add = 4, function = 5, reduce = 6 };

struct Step {
    StepKind kind;
    std::vector<int> args;
    int index = 0;
    Num value;                               // of a constant
    std::vector<std::vector<Word>> residues; // of a constant: [point][level]
};

struct Problem {
    int axes = 0;
    std::vector<std::vector<int>> leaves;
    std::vector<Chain> functions;
    std::vector<Step> steps;
    Mask reducible = 0;
    bool sums = false;
    std::vector<Num> literals;
    int negations = 0;
    int rank = 0;
    std::vector<std::vector<Word>> primes;  // [point][level]
    Word seed = 0;
    int attempts = 0;
    int max_forms = 0;
};

struct Value {
    std::vector<int> axes;   // ascending
    int levels = 0;
    std::size_t cells = 1;
    std::vector<Word> data;  // [point][level][cell]; the last axis varies fastest
};

using Fingerprint = std::vector<Word>;  // axes, then level 0 of all points

class Field {
public:
    explicit Field(const Problem& problem);
    std::vector<std::optional<Value>> source() const;
    Value mul(const Value& x, const Value& y) const { return both(x, y, true, all_); }
    Value add(const Value& x, const Value& y) const { return both(x, y, false, all_); }
    Value reduce(const Value& x, int axis) const { return reduce(x, axis, all_); }
    std::optional<Value> apply(const Chain& chain, const Value& x) const;
    Fingerprint fingerprint(const Value& v) const;
    int keyed_roots = 0;

private:
    using Points = std::vector<int>;
    using Leaf = std::pair<int, int>;  // (2: leaf, 3: axis weights; number)

    void settle(int point);
    int first_bad(int point, const std::vector<int>& roots) const;
    std::optional<Value> step(std::size_t n, const std::vector<const Value*>& args,
                              const Points& points) const;
    Value both(const Value& x, const Value& y, bool product, const Points& points) const;
    Value reduce(const Value& x, int axis, const Points& points) const;
    std::optional<Value> law(Law law, Word key, const Value& x, const Points& points) const;
    Word draw(Leaf leaf, int point, int level, std::size_t cell) const;
    std::size_t cells(const std::vector<int>& axes) const;
    Value blank(std::vector<int> axes, int levels, const Points& points) const;
    Word omega_power(int point, int level, Word e) const;

    const Problem& problem_;
    Points all_;
    std::vector<int> size_;  // cells along each axis
    std::vector<std::map<Leaf, Word>> draws_;
    std::vector<std::vector<std::vector<Word>>> omega_;  // [point][level]: omega^(2^i)
    std::vector<int> needed_;
    std::vector<std::set<Leaf>> supports_;
};

}  // namespace superopt::search
