// Number theory and keyed hashes of the field evaluator (superopt/mugraph/algebras/chain.py).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace superopt::field {

inline constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ULL;

// What, with a status added, stands for an infinity where a residue is hashed.
inline constexpr std::uint64_t kInfinite = std::uint64_t(1) << 62;

inline std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

inline std::uint64_t level_salt(int level) { return (std::uint64_t(level) + 1) * kGolden; }

inline std::uint64_t power(std::uint64_t x, std::uint64_t e, std::uint64_t p) {
    std::uint64_t out = 1;
    for (; e != 0; e >>= 1, x = x * x % p) {
        if (e & 1) out = out * x % p;
    }
    return out;
}

constexpr std::uint64_t text_hash(const char* text) {
    std::uint64_t h = 0xCBF29CE484222325ULL;
    for (; *text != 0; ++text) h = (h ^ static_cast<unsigned char>(*text)) * 0x100000001B3ULL;
    return h;
}

// Powers of one base: omega^x in four products.
class PowerTable {
public:
    PowerTable(std::uint64_t base, std::uint64_t p) : p_(p) {
        for (auto& row : rows_) {
            std::uint64_t x = 1;
            for (auto& cell : row) {
                cell = static_cast<std::uint32_t>(x);
                x = x * base % p;
            }
            base = x;  // base^256
        }
    }
    std::uint64_t operator()(std::uint32_t x) const {
        std::uint64_t out = rows_[0][x & 255];
        for (int k = 1; k < 4; ++k) out = out * rows_[k][(x >> (8 * k)) & 255] % p_;
        return out;
    }

private:
    std::uint64_t p_;
    std::array<std::array<std::uint32_t, 256>, 4> rows_{};
};

// Discrete logarithms to base 4 in the subgroup of prime order (p - 1) / 2: baby step, giant step.
class LogTable {
public:
    explicit LogTable(std::uint64_t p) : p_(p), order_((p - 1) / 2) {
        std::uint64_t count = 1;
        while (count * count < order_ || (count < (1U << 20) && count < order_)) count *= 2;
        count_ = count;
        mask_ = 4 * count - 1;
        slots_.assign(mask_ + 1, {0, 0});
        std::uint64_t x = 1;
        for (std::uint64_t k = 0; k < count && k < order_; ++k, x = x * 4 % p) {
            std::uint64_t at = mix(x) & mask_;
            while (slots_[at].key != 0) at = (at + 1) & mask_;
            slots_[at] = {static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(k)};
        }
        back_ = power(power(4, count, p), p - 2, p);
    }
    // y must be a nonzero square.
    std::uint64_t operator()(std::uint64_t y) const {
        for (std::uint64_t j = 0; j <= order_ / count_; ++j, y = y * back_ % p_) {
            for (std::uint64_t at = mix(y) & mask_; slots_[at].key != 0; at = (at + 1) & mask_) {
                if (slots_[at].key == y) return (slots_[at].exponent + j * count_) % order_;
            }
        }
        return 0;
    }

private:
    struct Slot {
        std::uint32_t key;
        std::uint32_t exponent;
    };
    std::uint64_t p_, order_, count_ = 0, mask_ = 0, back_ = 0;
    std::vector<Slot> slots_;
};

// The table of one prime, built once and shared by all threads.
const LogTable& log_table(std::uint64_t p);

}  // namespace superopt::field
