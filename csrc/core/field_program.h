// The decoded form of a flat program: registers and instructions with merged loops.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace superopt::field {

enum class Op : std::int64_t { kInput, kConst, kIota, kApply, kReduce, kIndex, kGather, kOutput };

enum class Prim : std::int64_t {
    kAdd, kMul, kRecip, kSqrt, kExp, kLog, kMax, kMin, kLt, kLe, kEq, kKeyed, kWhere, kNot, kAnd,
    kOr, kFloorDiv, kMod, kToReal, kToBool, kKeyedInt, kWrap, kCopy, kCount
};

struct RegInfo {
    bool real = false;
    unsigned mask = 0;  // levels, bit i for p_i
    std::size_t cells = 0;
    std::size_t last_use = 0;
};

inline constexpr int kMaxArgs = 3;

// A loop nest over dims, with an element stride per dim for each of `n` sources.
struct Nest {
    std::vector<std::int64_t> sizes;
    std::vector<std::int64_t> strides[kMaxArgs];
    int n = 0;
    std::size_t cells() const;
    // Joins neighbouring dims that every source walks evenly; drops dims of size one.
    void merge();
};

struct Instr {
    Op op = Op::kConst;
    Prim prim = Prim::kCopy;
    std::size_t dst = 0;
    std::size_t args[kMaxArgs] = {0, 0, 0};
    int nargs = 0;
    unsigned mask = 0;
    int low = 0;
    std::uint64_t salt = 0;
    std::int64_t dtype = 0;
    int sign[2] = {0, 0};
    std::int64_t lo = 0, hi = 0;           // range of integer inputs; extent and stride of a gather
    std::vector<std::int64_t> values;      // literals; what an integer input takes beyond lo..hi
    const std::int64_t* table = nullptr;   // cells of an index
    Nest nest;                             // over the cells of dst
    Nest inner;                            // over the reduced cells
    bool contraction = false;              // a sum of products that are never stored
    bool skip = false;                     // the product inside a contraction
};

struct Code {
    std::vector<RegInfo> regs;
    std::vector<Instr> instrs;
    int levels = 0;
    std::vector<std::uint32_t> literals[8];  // residues per level, of ascending numbers
};

Code decode(std::span<const std::int64_t> code, std::span<const std::int64_t> pool);

}  // namespace superopt::field
