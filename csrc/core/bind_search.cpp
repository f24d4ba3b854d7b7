// Python bindings of the search part: the enumeration of one region's values.
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "core.h"
#include "enumerate.h"
#include "part.h"

namespace superopt {

namespace nb = nanobind;
using namespace search;

namespace {

using RawNum = std::pair<std::uint64_t, double>;
using RawStep = std::tuple<int, std::vector<int>, int, RawNum, std::vector<std::vector<Word>>>;
using RawChain = std::vector<std::pair<int, Word>>;
using Question = std::pair<std::vector<int>, std::vector<int>>;
using RawMade = std::tuple<int, int, std::vector<int>>;

Num number_of(const RawNum& x) { return {x.first, x.second}; }

Problem problem_of(std::vector<std::vector<int>> leaves, const std::vector<RawChain>& functions,
                   const std::vector<RawStep>& steps) {
    Problem p;
    p.leaves = std::move(leaves);
    for (auto& chain : functions) {
        p.functions.emplace_back();
        for (auto& [law, key] : chain) p.functions.back().emplace_back(static_cast<Law>(law), key);
    }
    for (auto& [kind, args, index, value, residues] : steps)
        p.steps.push_back({static_cast<StepKind>(kind), args, index, number_of(value), residues});
    return p;
}

nb::dict enumerate_region(int axes, std::vector<std::vector<int>> leaves,
                          const std::vector<RawChain>& functions, const std::vector<RawStep>& steps,
                          const std::vector<int>& reducible, bool sums,
                          const std::vector<RawNum>& literals, int rank,
                          std::vector<std::vector<Word>> primes, Word seed, int attempts,
                          int max_forms, std::int64_t candidates, double seconds, std::int64_t memory,
                          int operators, nb::object stop, bool prune, bool share) {
    Problem p = problem_of(std::move(leaves), functions, steps);
    p.axes = axes;
    for (int a : reducible) p.reducible |= Mask{1} << a;
    p.sums = sums;
    for (auto& c : literals) p.literals.push_back(number_of(c));
    p.rank = rank;
    p.primes = std::move(primes);
    p.seed = seed;
    p.attempts = attempts;
    p.max_forms = max_forms;

    Limits limits;
    limits.candidates = candidates;
    limits.seconds = seconds;
    limits.memory = memory;
    limits.operators = operators;
    limits.prune = prune;
    limits.share = share;
    limits.stop = [&stop](std::uint64_t states, std::size_t classes) {
        nb::gil_scoped_acquire held;
        // An interrupt of the user leaves as the exception that Python raised for it.
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        return !stop.is_none() && nb::cast<bool>(stop(states, classes));
    };
    Space space = [&] {
        nb::gil_scoped_release released;  // other threads run meanwhile
        return enumerate_values(p, limits);
    }();

    std::vector<std::vector<RawMade>> derivations;
    for (auto& ms : space.derivations) {
        derivations.emplace_back();
        for (auto& m : ms) {
            std::vector<int> args{m.args[0]};
            if (m.args[1] >= 0) args.push_back(m.args[1]);
            derivations.back().emplace_back(static_cast<int>(m.kind), m.index, std::move(args));
        }
    }
    nb::dict removed;
    removed["abstract"] = space.removed.abstract;
    removed["rank"] = space.removed.rank;
    removed["undefined"] = space.removed.undefined;
    removed["identity"] = space.removed.identity;
    removed["forms"] = space.removed.forms;
    nb::dict out;
    out["axes"] = space.axes;
    out["derivations"] = derivations;
    out["class_of"] = space.class_of;
    out["closed"] = space.closed;
    out["states"] = space.states;
    out["queries"] = space.queries;
    out["removed"] = removed;
    out["keyed_roots"] = space.keyed_roots;
    out["unsupported"] = space.unsupported;
    out["held"] = space.held;
    out["source_held"] = space.source_held;
    out["full"] = space.full;
    out["operators"] = space.operators;
    out["due"] = space.due;
    return out;
}

// For each question (source terms, terms): which of the terms can be part of the sources.
std::vector<std::vector<bool>> are_parts(std::vector<std::vector<int>> leaves,
                                         const std::vector<RawChain>& functions,
                                         const std::vector<RawStep>& steps,
                                         const std::vector<Question>& questions,
                                         const std::vector<RawNum>& literals, int negations) {
    const Problem p = problem_of(std::move(leaves), functions, steps);
    Algebra algebra;
    std::vector<PolyId> forms;
    try {
        forms = source_forms(p, algebra);
    } catch (const TooLarge&) {
        throw std::invalid_argument("the normal form of a term is too large");
    } catch (const Pole&) {
        throw std::invalid_argument("a term divides by zero");
    }
    std::vector<Num> consumed;
    for (auto& c : literals) consumed.push_back(number_of(c));
    std::vector<std::vector<bool>> out;
    for (auto& [sources, terms] : questions) {
        std::vector<PolyId> polys;
        for (int s : sources) polys.push_back(forms.at(static_cast<std::size_t>(s)));
        Targets targets(algebra, polys, consumed, negations);
        out.emplace_back();
        for (int t : terms) out.back().push_back(targets.is_part(forms.at(static_cast<std::size_t>(t))));
    }
    return out;
}

}  // namespace

void register_search(nb::module_& m) {
    m.def("enumerate_region", &enumerate_region, nb::arg("axes"), nb::arg("leaves"),
          nb::arg("functions"), nb::arg("steps"), nb::arg("reducible"), nb::arg("sums"),
          nb::arg("literals"), nb::arg("rank"), nb::arg("primes"), nb::arg("seed"),
          nb::arg("attempts"), nb::arg("max_forms"), nb::arg("candidates"), nb::arg("seconds"),
          nb::arg("memory"), nb::arg("operators"), nb::arg("stop").none(), nb::arg("prune"), nb::arg("share"),
          "Enumerates the values of one region; see superopt/search/native.py.");
    m.def("are_parts", &are_parts, nb::arg("leaves"), nb::arg("functions"), nb::arg("steps"),
          nb::arg("questions"), nb::arg("literals"), nb::arg("negations"),
          "Asks the pruning rule about single terms; see superopt/search/native.py.");
}

}  // namespace superopt
