// The pruning rule: whether an abstract term can still be part of a source term's derivation.
//
// The C++ twin of superopt/search/part.py, which states the rule and what it is complete for.
#pragma once

#include <unordered_set>

#include "abstract.h"

namespace superopt::search {

using Bits = std::vector<std::uint64_t>;

// Where a monomial's atoms occur: places (monomials of sources) and polynomials of sources.
struct Where {
    Bits places, polys;
};

using Totals = std::vector<std::pair<int, Num>>;  // (atom, exponent), by atom

// What the filter needs to know of a polynomial.
struct Extremes {
    PolyId poly = -1;
    std::size_t size = 0;
    const Where* least = nullptr;     // of the least and the greatest monomial in a monomial order:
    const Where* greatest = nullptr;  // no product of these cancels
    const Totals* totals = nullptr;   // of the least monomial
    Bits polys;                       // where all monomials occur
};

class Targets {
public:
    Targets(Algebra& algebra, const std::vector<PolyId>& sources, const std::vector<Num>& literals,
            int negations);
    bool is_part(PolyId term);
    // Cheap necessary conditions for is_part(a * b) and is_part(a + b).
    bool may_hold_product(const Extremes& a, const Extremes& b);
    bool may_hold_sum(const Extremes& a, const Extremes& b);
    const Extremes& extremes(PolyId p);  // the reference stays valid
    std::uint64_t queries = 0;
    std::size_t held() const { return held_; }  // bytes of what is known of monomials and terms

private:
    struct Place {
        int poly;
        MonoId mono;
    };
    struct Embedding;
    struct Context;

    using Combined = std::vector<std::vector<std::pair<MonoId, Num>>>;

    void close(PolyId p, std::unordered_set<PolyId>& seen, Combined& combined);
    void combine(const Combined& combined, const std::vector<Num>& products);
    bool attempt(Embedding& e, const Place& place);
    bool search(PolyId term);
    bool embed(Embedding& e, std::size_t i);
    bool complete(Embedding& e);
    bool bind_missing(Embedding& e, Context& c, std::size_t i);
    bool others_hold(Embedding& e, const Context& c);
    MonoId placed(MonoId m, const Context& c, Mask& cancelled);
    bool allowed(Num ratio) const { return ratios_.count(ratio.abs().r) > 0; }
    // Whether a coefficient of a target can be `ratio` times a term's own, of the literals there are:
    // what is a product of literals is not also made of copies.
    bool made(Num there, Num own, Num ratio) const {
        auto& from = products_.count(there.abs().r) ? products_ : ratios_;
        return from.count(ratio.abs().r) && from.count(own.abs().r);
    }
    const Totals& totals(MonoId m);
    bool may_hold_both(const Extremes& a, const Extremes& b);
    bool may_hold(MonoId mono, MonoId part);
    bool plausible(MonoId m);

    const Where& where(MonoId m);
    bool less(MonoId a, MonoId b) const;

    Algebra& algebra_;
    // Per polynomial: each monomial with the coefficients that it may be found with (one, but for
    // the arguments of exponentials that were multiplied).
    std::vector<std::unordered_map<MonoId, std::vector<Num>>> polys_;
    std::vector<Place> places_;
    std::vector<std::vector<std::pair<std::size_t, Num>>> by_atom_;  // (place, exponent)
    std::unordered_map<MonoId, Where> where_;
    std::unordered_map<PolyId, Extremes> extremes_;
    std::unordered_set<std::uint64_t> products_, ratios_;  // of literals; copies of those
    std::unordered_map<int, std::unordered_set<std::uint64_t>> powers_;  // of exponentials
    Mask divided_ = 0;  // axes whose size the sources divide by
    int negations_;
    std::vector<signed char> memo_;
    std::unordered_map<MonoId, Totals> totals_;
    std::size_t held_ = 0;
};

}  // namespace superopt::search
