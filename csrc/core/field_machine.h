// The registers of one trial and the primitives that work on them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "field.h"
#include "field_math.h"
#include "field_program.h"

namespace superopt::field {

// A value: residues per level or exact integers; status is empty where every cell is ok.
struct Reg {
    std::vector<Residue> res[8];
    std::vector<std::int64_t> data;
    std::vector<std::uint8_t> status;
    bool clean() const { return status.empty(); }
    std::uint8_t at(std::int64_t cell) const { return clean() ? std::uint8_t{kOk} : status[cell]; }
};

// Offsets of each source at the start of a row of a nest, and their steps along the row.
struct Row {
    std::size_t dst = 0;
    std::int64_t count = 0;
    std::int64_t off[kMaxArgs] = {0, 0, 0};
    std::int64_t step[kMaxArgs] = {0, 0, 0};
};

inline constexpr std::uint64_t kPool = 3;  // values of an input in a trial that is to have ties
inline constexpr std::size_t kParallel = 1 << 16;  // work below which threads cost more than they give

// Calls f(row) for the innermost rows [first, last) of a nest.
template <class F>
void some_rows(const Nest& nest, std::size_t first, std::size_t last, const F& f) {
    const std::size_t outer = nest.sizes.empty() ? 0 : nest.sizes.size() - 1;
    Row row;
    row.count = nest.sizes.empty() ? 1 : nest.sizes.back();
    for (int k = 0; k < nest.n && !nest.sizes.empty(); ++k) row.step[k] = nest.strides[k].back();
    std::vector<std::int64_t> at(outer, 0);
    std::size_t rest = first;
    for (std::size_t d = outer; d-- > 0;) {
        at[d] = static_cast<std::int64_t>(rest % static_cast<std::size_t>(nest.sizes[d]));
        rest /= static_cast<std::size_t>(nest.sizes[d]);
        for (int k = 0; k < nest.n; ++k) row.off[k] += at[d] * nest.strides[k][d];
    }
    for (std::size_t r = first; r < last; ++r) {
        row.dst = r * static_cast<std::size_t>(row.count);
        f(row);
        for (std::size_t d = outer; d-- > 0;) {
            for (int k = 0; k < nest.n; ++k) row.off[k] += nest.strides[k][d];
            if (++at[d] < nest.sizes[d]) break;
            for (int k = 0; k < nest.n; ++k) row.off[k] -= at[d] * nest.strides[k][d];
            at[d] = 0;
        }
    }
}

// Calls f(row) for every innermost row, on several threads where there is much to do.
template <class F>
void each_row(const Nest& nest, int threads, const F& f, std::size_t work_per_cell = 1) {
    const std::size_t cells = nest.cells();
    if (cells == 0) return;
    const std::size_t rows = cells / static_cast<std::size_t>(nest.sizes.empty() ? 1 : nest.sizes.back());
    if (threads < 2 || cells * work_per_cell < kParallel || rows < 2) {
        some_rows(nest, 0, rows, f);
        return;
    }
    std::vector<std::thread> pool;
    const auto n = static_cast<std::size_t>(threads);
    for (std::size_t t = 0; t < n; ++t) {
        pool.emplace_back([&, t] { some_rows(nest, rows * t / n, rows * (t + 1) / n, f); });
    }
    for (std::thread& t : pool) t.join();
}

class Machine {
public:
    Machine(const Code& code, const std::vector<std::uint64_t>& primes, std::uint64_t key,
            bool pooled, const std::uint64_t* omega, int threads);
    // Runs the program; `emit(output number, instruction, register)` at each OUTPUT.
    void run(const std::function<void(std::size_t, const Instr&, const Reg&)>& emit);

private:
    void input(const Instr& s, Reg& d);
    void constant(const Instr& s, Reg& d);
    void apply(const Instr& s, Reg& d);
    void arithmetic(const Instr& s, Reg& d);
    void inverse(const Instr& s, Reg& d);
    void transcendental(const Instr& s, Reg& d);
    void selection(const Instr& s, Reg& d);
    void keyed(const Instr& s, Reg& d);
    void convert(const Instr& s, Reg& d);
    void exact(const Instr& s, Reg& d);
    void choice(const Instr& s, Reg& d);
    void reduce(const Instr& s, Reg& d);
    void reduce_real(const Instr& s, Reg& d);
    void reduce_exact(const Instr& s, Reg& d);
    void contract(const Instr& s, Reg& d);
    void contract_rows(const Instr& s, Reg& d);
    void contract_undefined(const Instr& s, Reg& d);
    void gather(const Instr& s, Reg& d);

    void allocate(const Instr& s, Reg& d);
    void seal(const Instr& s, Reg& d);  // zeroes residues of cells that are not ok
    std::uint64_t order(const Reg& r, int low, std::int64_t cell) const;
    std::uint64_t place(std::uint64_t x) const;
    void place_literals();
    std::uint8_t product_status(const Instr& s, const Reg& a, std::int64_t i, const Reg& b,
                                std::int64_t k) const;
    int sign(const Instr& s, int k, const Reg& r, std::int64_t cell) const;
    const Reg& arg(const Instr& s, int k) const { return regs_[s.args[k]]; }

    const Code& code_;
    const std::vector<std::uint64_t>& primes_;
    std::uint64_t key_, order_key_;
    bool pooled_;
    const std::uint64_t* omega_;
    int threads_;
    std::vector<Reg> regs_;
    std::vector<std::unique_ptr<PowerTable>> powers_;
    std::vector<std::uint64_t> log_unit_;
    std::vector<std::uint64_t> places_[8];  // of the literals, per level
    std::uint64_t sieve_[8] = {};           // bits of residues that may be literals
};

std::uint8_t add_status(std::uint8_t a, std::uint8_t b);
std::uint8_t mul_status(std::uint8_t a, int sign_a, std::uint8_t b, int sign_b);
std::int64_t wrap(std::int64_t value, std::int64_t dtype);

}  // namespace superopt::field
