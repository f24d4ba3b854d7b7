// Runs flat programs over many trials, on several threads.
#include "field.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "field_machine.h"

namespace superopt::field {

const LogTable& log_table(std::uint64_t p) {
    static std::mutex guard;
    static std::map<std::uint64_t, std::unique_ptr<LogTable>> tables;
    const std::lock_guard lock(guard);
    auto& table = tables[p];
    if (!table) table = std::make_unique<LogTable>(p);
    return *table;
}

std::vector<Output> run(std::span<const std::int64_t> code, std::span<const std::int64_t> pool,
                        const Trials& trials, int threads) {
    const Code program = decode(code, pool);
    const std::size_t n = trials.keys.size();
    const auto levels = static_cast<std::size_t>(program.levels);
    if (trials.primes.size() != levels || trials.pooled.size() != n ||
        trials.omega.size() != n * (levels == 0 ? 0 : levels - 1) || levels == 0) {
        throw std::invalid_argument("field trials do not fit the program's levels");
    }
    for (const std::uint64_t p : trials.primes) {
        if (p < 3 || p >= (std::uint64_t(1) << 31)) {
            throw std::invalid_argument("a prime is not below 2^31");
        }
    }
    std::vector<Output> outputs;
    std::size_t largest = 1;
    for (const RegInfo& r : program.regs) largest = std::max(largest, r.cells);
    for (const Instr& s : program.instrs) {
        if (s.contraction) largest = std::max(largest, s.nest.cells() * s.inner.cells());
        if (s.op != Op::kOutput) continue;
        Output out;
        out.cells = s.nest.cells();
        out.data.resize(n * out.cells);
        out.status.resize(n * out.cells);
        outputs.push_back(std::move(out));
    }
    const auto one = [&](std::size_t t, int inner) {
        Machine machine(program, trials.primes, trials.keys[t], trials.pooled[t] != 0,
                        trials.omega.data() + t * (levels - 1), inner);
        machine.run([&](std::size_t which, const Instr& s, const Reg& r) {
            Output& out = outputs[which];
            const bool real = program.regs[s.args[0]].real;
            each_row(s.nest, 1, [&](const Row& row) {
                for (std::int64_t j = 0; j < row.count; ++j) {
                    const std::int64_t from = row.off[0] + j * row.step[0];
                    const std::size_t to = t * out.cells + row.dst + std::size_t(j);
                    out.data[to] = real ? r.res[s.low][std::size_t(from)]
                                        : static_cast<std::uint64_t>(r.data[std::size_t(from)]);
                    out.status[to] = r.at(from);
                }
            });
        });
    };
    // Large values keep all threads busy within one trial, and memory for one trial only.
    if (threads < 2 || n < 2 || largest >= kParallel * 4) {
        for (std::size_t t = 0; t < n; ++t) one(t, threads);
        return outputs;
    }
    std::atomic<std::size_t> next{0};
    std::exception_ptr failed;
    std::mutex guard;
    std::vector<std::thread> team;
    for (int k = 0; k < threads; ++k) {
        team.emplace_back([&] {
            try {
                for (std::size_t t = next++; t < n; t = next++) one(t, 1);
            } catch (...) {
                const std::lock_guard lock(guard);
                failed = std::current_exception();
            }
        });
    }
    for (std::thread& t : team) t.join();
    if (failed) std::rethrow_exception(failed);
    return outputs;
}

}  // namespace superopt::field
