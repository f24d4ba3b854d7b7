// Evaluation of flat programs over a chain of prime fields; knows field primitives, no operators.
//
// The program format is described in superopt/mugraph/bytecode.py, the meaning of the primitives in
// superopt/mugraph/algebras/field.py; the two evaluators agree bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace superopt::field {

using Residue = std::uint32_t;  // every prime is below 2^31

// A residue; undefined in the field; NaN by an operation on infinities; an infinity.
enum Status : std::uint8_t { kOk = 0, kPoison = 1, kNan = 2, kNeg = 3, kPos = 4, kStatuses = 5 };

// What a run needs beside the program: per trial a key, whether inputs come from small pools, and
// omega per level ([trials][levels - 1]).
struct Trials {
    std::span<const std::uint64_t> keys;
    std::span<const std::uint8_t> pooled;
    std::span<const std::uint64_t> omega;
    std::vector<std::uint64_t> primes;
};

// One output over all trials, [trials][cells]: residues or two's complement integers.
struct Output {
    std::size_t cells = 0;
    std::vector<std::uint64_t> data;
    std::vector<std::uint8_t> status;
};

// Runs a program on `threads` threads. Throws std::invalid_argument when it is malformed.
std::vector<Output> run(std::span<const std::int64_t> code, std::span<const std::int64_t> pool,
                        const Trials& trials, int threads);

}  // namespace superopt::field
