// Bottom-up enumeration of the values of one region.
//
// The C++ twin of superopt/search/oracle.py: same classes, same derivations, same order.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "value.h"

namespace superopt::search {

struct Made {  // kind, function or axis, one or two classes (-1: none)
    StepKind kind;
    int index;
    std::array<int, 2> args;
    bool operator==(const Made&) const = default;
};

struct Limits {
    std::int64_t candidates = -1;  // -1: no limit
    double seconds = -1;
    std::int64_t memory = -1;      // bytes that may be held; -1: no limit
    int operators = -1;            // of a term, counted as a tree; -1: no limit
    // Polled every few milliseconds with the states and classes so far; true: stop.
    std::function<bool(std::uint64_t, std::size_t)> stop;
    bool prune = true;             // ask whether a term can be part of a source term
    bool share = true;             // one class for all terms of one value
};

struct Removed {
    std::uint64_t abstract = 0, rank = 0, undefined = 0, identity = 0, forms = 0;
};

struct Space {
    std::vector<std::vector<int>> axes;
    std::vector<std::vector<Made>> derivations;
    std::vector<int> class_of;  // per source term
    bool closed = true;
    std::uint64_t states = 0, queries = 0;
    Removed removed;
    int keyed_roots = 0;
    std::size_t held = 0;      // bytes at the end, nearly
    std::size_t source_held = 0;  // bytes of the source terms alone
    bool full = false;         // the limit of memory was reached
    // Under a limit of operators: up to which all terms were tried, and how many terms there are to
    // try of what was found (the states of a run that was not stopped, at least these of one that was).
    int operators = -1;
    std::uint64_t due = 0;
    std::string unsupported;  // why the source cannot be searched
};

Space enumerate_values(const Problem& problem, const Limits& limits);

// The normal forms of all source terms; throws TooLarge and Pole.
std::vector<PolyId> source_forms(const Problem& problem, Algebra& algebra);

}  // namespace superopt::search
