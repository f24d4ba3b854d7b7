// Normal forms of the abstract algebra: sums of products of atoms with bound axes.
//
// The C++ twin of superopt/search/abstract.py, which states the axioms. Everything is interned, so
// equal forms are equal numbers. Rationals are kept as a residue (for equality) and a double (for
// order): a wrong answer would need two rationals that agree modulo 2^61 - 1, and would only make
// the pruning keep or drop a term, never merge two values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

namespace superopt::search {

struct TooLarge : std::exception {};
struct Pole : std::exception {};

struct Num {
    std::uint64_t r = 0;
    double v = 0;
    bool zero() const { return r == 0; }
    bool operator==(const Num& o) const { return r == o.r; }
    bool operator<(const Num& o) const { return r != o.r && v < o.v; }
    Num operator+(const Num& o) const;
    Num operator-(const Num& o) const;
    Num operator*(const Num& o) const;
    Num operator-() const;
    Num inverse() const;
    Num abs() const { return v < 0 ? -*this : *this; }
};
Num number(std::int64_t n);

enum class Law : int { exponential = 0, reciprocal = 1, root = 2, keyed = 3 };
enum class Kind : int { leaf, size, exponential, reciprocal, root, keyed };

using Mask = std::uint64_t;  // a set of axes
using MonoId = int;
using PolyId = int;
using Key = std::vector<std::uint64_t>;

struct KeyHash {
    std::size_t operator()(const Key& k) const;
};

// Bytes of a vector's elements, and of an entry of a hash table beside what it points to.
template <class T>
std::size_t bytes_of(const std::vector<T>& v) {
    return v.capacity() * sizeof(T) + sizeof(v);
}
constexpr std::size_t table_entry = 48;

struct Atom {
    Kind kind;
    int sign = 1;
    std::uint64_t name = 0;  // leaf number, axis of a size, key of a function
    int arg = -1;            // monomial of an exponential, polynomial of another function
    Mask axes = 0;
};

struct Factor {  // a factor of a group; binding: (axis, number)
    int atom;
    std::vector<std::pair<int, int>> binding;
    Num exponent;
};

struct Group {
    std::vector<std::pair<int, int>> bound;  // (axis, how many variables)
    std::vector<Factor> factors;
    Mask axes = 0;  // free
};

struct Mono {
    std::vector<std::pair<int, Num>> free;  // (atom, exponent), by atom
    std::vector<int> groups;                // sorted, with repetition
    Mask axes = 0;
};

using Terms = std::vector<std::pair<MonoId, Num>>;  // by monomial

struct Part {  // a factor during assembly; axes that are not in variables are free
    int atom;
    Num exponent;
    std::vector<std::pair<int, int>> variables;  // (axis, variable)
    int at(int axis) const {
        for (auto& [k, v] : variables)
            if (k == axis) return v;
        return -1;
    }
};

using Bound = std::vector<std::pair<int, int>>;  // (variable, axis)

class Algebra {
public:
    static constexpr std::size_t max_monomials = 512;

    PolyId leaf(std::uint64_t name, Mask axes);
    PolyId size(int axis, int sign = 1);
    PolyId constant(Num c);
    PolyId add(PolyId a, PolyId b);
    PolyId mul(PolyId a, PolyId b);
    PolyId reduce(PolyId p, int axis);
    PolyId apply(Law law, std::uint64_t name, PolyId p);  // throws Pole

    const Terms& terms(PolyId p) const { return polys_[p]; }
    const Mono& mono(MonoId m) const { return monos_[m]; }
    const Atom& atom(int a) const { return atoms_[a]; }
    std::size_t atom_count() const { return atoms_.size(); }
    std::size_t held() const { return held_; }  // bytes of all that is interned, nearly
    PolyId as_met(int atom) const;
    PolyId poly(Terms terms);
    Mask axes(PolyId p) const;

    // The factors of a monomial; its bound variables are numbered from `base` and appended.
    std::vector<Part> parts(MonoId m, int base, Bound& bound) const;
    MonoId assemble(const std::vector<Part>& parts, const Bound& bound);
    int find_size(int axis, int sign) const;
    int size_atom(int axis, int sign);
    int find_exponential(MonoId arg, int sign) const;

private:
    int intern(const Atom& a);
    MonoId intern(Mono m);
    int intern(Group g);
    PolyId of(int atom, Num exponent);
    PolyId of_group(int group);
    void cancel(std::vector<std::pair<int, Num>>& free) const;
    int group(const std::vector<const Part*>& members);
    MonoId mono_mul(MonoId a, MonoId b);
    PolyId exponential(PolyId p);
    PolyId reciprocal(PolyId p);
    PolyId root(PolyId p);
    PolyId function(Kind kind, PolyId arg, Num scale);
    PolyId inverse(int atom, Num e);
    PolyId root_of(int atom, Num e);
    PolyId power(PolyId p, Num e);
    void content(PolyId p, Mono& common, Num& scale, PolyId& rest);  // rest = -1: one monomial

    std::vector<Atom> atoms_;
    std::vector<Group> groups_;
    std::vector<Mono> monos_;
    std::vector<Terms> polys_;
    std::unordered_map<Key, int, KeyHash> atom_ids_, group_ids_, mono_ids_, poly_ids_;
    std::unordered_map<std::uint64_t, MonoId> products_;
    std::map<int, PolyId> as_met_;
    std::size_t held_ = 0;
};

}  // namespace superopt::search
