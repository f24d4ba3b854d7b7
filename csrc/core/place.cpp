// See place.h.
#include "place.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

namespace superopt::place {

namespace {

// The extents of every axis under a placement: in a task, and in one step of its loops.
struct Extents {
    std::vector<double> tile, step;

    static double count(const std::vector<double>& extents, Axes axes) {
        double n = 1.0;
        for (; axes; axes &= axes - 1) n *= extents[std::countr_zero(axes)];
        return n;
    }
};

struct Placed {
    Extents extents;
    double tasks = 1.0;
    std::vector<Split> grid;  // the last axis changes first, from task to task,
    bool ordered = false;     // or else nothing is known of their order
    Axes parted = 0;  // reduced axes of which a task sees a part, and how many parts there are
    double parts = 1.0;
};

// Seconds of merging the parts of split reductions, made on ``busy`` cores.
double merging(const Shape& shape, const Device& device, Axes parted, double parts, double busy) {
    double elements = 0.0, passed = 0.0;
    for (auto& p : shape.parts) {
        if (!(p.over & parted)) continue;
        const double n = Extents::count(shape.sizes, p.axes) * parts;
        elements += n;
        passed += n * p.bytes;
    }
    const double rate = passed <= device.l3_bytes / 2 ? device.l3 : device.dram;
    return device.launch + 2.0 * elements / (device.rates[0] * busy) + 2.0 * passed / rate;
}

// The time that the arithmetic of a placed kernel takes, that of its memory, and what comes on top.
struct Times {
    double compute, memory, more;

    double total() const {
        return more + std::max(compute, memory) + overlap * std::min(compute, memory);
    }

    static constexpr double overlap = 0.3;
};

// The part of a tile of ``own`` bytes that stays in the second cache; see superopt/cost/order.py.
double staying(const std::vector<Step>& steps, const std::vector<double>& tile, double size,
               double own, double l2) {
    constexpr double ways = 8.0;
    double run = size, share = 1.0;
    for (auto& s : steps) {
        if (tile[s.axis] <= 1.0) continue;
        if (s.bytes != run) {
            const auto bytes = static_cast<std::int64_t>(s.bytes);
            const double even = std::min(static_cast<double>(bytes & -bytes), l2 / ways);
            share = bytes ? std::min(1.0, run / even) : 1.0;
            break;
        }
        run = s.bytes * tile[s.axis];
    }
    return std::min(1.0, l2 / 2 * share / own);
}

// How many tasks that follow each other read the same tile of some data.
double in_a_row(const Shape& shape, const Placed& placed, Axes axes) {
    double run = 1.0;
    for (std::size_t k = placed.grid.size(); k-- > 0;) {
        const int a = placed.grid[k].axis;
        const double n = shape.sizes[a], tile = placed.extents.tile[a];
        if ((axes >> a & 1) && tile < n) break;
        run *= std::ceil(n / tile);
    }
    return run;
}

Times predicted(const Shape& shape, const Device& device, const Placed& placed, double steps) {
    const Extents& e = placed.extents;
    const double tasks = placed.tasks;
    auto per_task = [&](Axes axes) { return Extents::count(e.tile, axes); };
    auto per_step = [&](Axes axes) { return Extents::count(e.step, axes); };
    double compute = 0.0, buffered = 0.0, step_reads = 0.0;
    for (auto& w : shape.works) compute += per_task(w.axes) * w.flops / device.rates[w.unit];
    for (auto& t : shape.tiles) buffered += per_step(t.axes) * t.bytes;
    for (int i = 0; i < shape.reads; ++i)
        step_reads += per_step(shape.moved[i].axes) * shape.moved[i].bytes;
    if (buffered > device.l2)
        compute *= 1.0 + std::min(buffered / device.l2, 8.0) * 0.5;
    else if (buffered > device.l1)
        compute *= 1.04;
    const double overhead = device.step * steps * static_cast<double>(shape.tiles.size() + 2);
    // Tiles stay near while a core walks along axes that they lack, where all of them fit.
    std::vector<double> runs(shape.moved.size(), 1.0), stays(shape.moved.size(), 1.0);
    double kept = 0.0;
    for (int i = 0; placed.ordered && i < shape.reads; ++i) {
        const Data& d = shape.moved[i];
        runs[i] = in_a_row(shape, placed, d.axes);
        const double own = per_task(d.axes) * d.bytes;
        stays[i] = staying(shape.steps[i], e.tile, d.bytes, own, device.l2);
        if (runs[i] > 1.0) kept += own * stays[i];
    }
    const double stretch = kept <= device.l2 / 2 ? std::max(tasks / device.cores, 1.0) : 1.0;
    double dram = 0.0, l3 = 0.0;
    for (std::size_t n = 0; n < shape.moved.size(); ++n) {
        const Data& d = shape.moved[n];
        const double total = Extents::count(shape.sizes, d.axes) * d.bytes;
        // Only the merge of the parts writes results.
        double times = n < static_cast<std::size_t>(shape.reads) ? tasks : tasks / placed.parts;
        const double own = per_task(d.axes) * d.bytes;
        const double again = std::max(own * times - total, 0.0);
        if (n < static_cast<std::size_t>(shape.reads))
            times *= stays[n] / std::min(runs[n], stretch) + (1.0 - stays[n]);
        const double far = std::max(own * times - total, 0.0);
        const double near = (again - far) * 0.5;
        // Neighbouring tasks share what lacks their grid axes; it stays near when it is small.
        dram += total + (total <= device.l3_bytes / 2 ? 0.0 : far * 0.5);
        const bool away = per_step(d.axes) * d.bytes > device.l2 / 2 || total > device.l2;
        l3 += away ? far + near : again * 0.2;
    }
    const double waves = std::ceil(tasks / device.cores) * device.cores / tasks;
    const double per_core = (compute + overhead) * tasks / device.cores * waves;
    double memory = dram / device.dram + l3 / device.l3;
    if (step_reads > 8 * device.l2) memory *= 1.1;
    if (tasks < device.cores) memory *= device.cores / std::max(tasks, 1.0) * 0.75;
    Times out{per_core, memory, device.launch};
    if (!placed.parted) return out;
    const double busy = std::min(device.cores, tasks / placed.parts);
    out.more += merging(shape, device, placed.parted, placed.parts, busy);
    return out;
}

// Bytes of a buffer, whichever of its axes is the last, whose rows are padded.
double padded(const std::vector<double>& extents, const Data& d) {
    const double per = std::floor(64.0 / d.bytes);
    double count = 1.0, least = std::numeric_limits<double>::infinity();
    for (Axes left = d.axes; left; left &= left - 1) {
        const double n = extents[std::countr_zero(left)];
        count *= n;
        if (n > per) least = std::min(least, n);
    }
    if (std::isfinite(least) && std::popcount(d.axes) > 1) count *= (least + 2.0 * per) / least;
    return count * d.bytes + 64.0;
}

// Bytes of tile buffers that one task holds at most: tile_bytes of superopt/cost/held.py.
double tile_bytes(const Shape& shape, const Placed& placed, const std::vector<Split>& loop) {
    std::vector<double> extents = placed.extents.tile;
    Axes looped = 0;
    for (auto& s : loop) looped |= Axes{1} << s.axis;
    const bool both = std::any_of(shape.parts.begin(), shape.parts.end(), [&](const Part& p) {
        return std::popcount(p.over & looped) > 1;
    });
    double passes = 1.0;
    for (std::size_t k = 0; k < loop.size(); ++k) {
        const Axes axis = Axes{1} << loop[k].axis;
        double& n = extents[loop[k].axis];
        if (k == 0 || !both) n = std::min(loop[k].tile, n);
        double times = 0.0;
        for (auto& p : shape.parts) times += (p.over & axis) != 0;
        for (std::size_t m = shape.reads; m < shape.moved.size(); ++m)
            if (shape.moved[m].axes & axis) {
                times += 1.0;
                break;
            }
        passes *= std::max(times, 1.0);
    }
    double total = 0.0;
    for (auto& h : shape.held) {
        const bool once = (h.over & looped) && !(h.axes & looped);
        total += padded(extents, {h.axes, h.bytes}) * (once ? 1.0 : passes);
    }
    for (auto& f : shape.factors)
        total += padded(extents, f) * (passes + (placed.parted ? placed.parts : 0.0));
    return total;
}

Placed on_grid(const Shape& shape, const std::vector<Split>& grid) {
    Placed out;
    out.extents.tile = shape.sizes;
    out.grid = grid;
    for (auto& s : grid) {
        const double n = shape.sizes[s.axis], tile = std::min(s.tile, n);
        out.extents.tile[s.axis] = tile;
        out.tasks *= std::ceil(n / tile);
        const Axes axis = Axes{1} << s.axis;
        if (!(shape.reduced & axis) || tile >= n) continue;
        out.parted |= axis;
        out.parts *= std::ceil(n / tile);
    }
    return out;
}

double looped(const Shape& shape, const Device& device, Placed& placed,
              const std::vector<Split>& loop) {
    if (!shape.held.empty() && tile_bytes(shape, placed, loop) > device.tile_memory)
        return std::numeric_limits<double>::infinity();
    Extents& e = placed.extents;
    e.step = e.tile;
    double steps = 1.0;
    for (auto& s : loop) {
        e.step[s.axis] = std::min(std::min(s.tile, shape.sizes[s.axis]), e.tile[s.axis]);
        steps *= std::ceil(e.tile[s.axis] / e.step[s.axis]);
    }
    return predicted(shape, device, placed, steps).total();
}

// Calls ``visit`` with one split of each axis after another, the last axis changing first.
template <class Visit>
void each_grid(const std::vector<std::vector<Split>>& grids, std::int64_t most, Visit visit) {
    std::vector<std::size_t> at(grids.size(), 0);
    std::vector<Split> grid;
    for (auto& choices : grids) {
        if (choices.empty()) return;
        grid.push_back(choices[0]);
    }
    for (std::int64_t combination = 0; combination < most; ++combination) {
        visit(combination, grid);
        std::size_t d = grids.size();
        while (d > 0 && ++at[d - 1] == grids[d - 1].size()) {
            at[d - 1] = 0;
            grid[d - 1] = grids[d - 1][0];
            --d;
        }
        if (d == 0) break;
        grid[d - 1] = grids[d - 1][at[d - 1]];
    }
}

}  // namespace

double seconds(const Shape& shape, const Device& device, const std::vector<Split>& grid,
               const std::vector<Split>& loop) {
    Placed placed = on_grid(shape, grid);
    placed.ordered = true;
    return looped(shape, device, placed, loop);
}

std::vector<int> order(const Shape& shape, const Device& device, const std::vector<Split>& grid) {
    std::vector<double> tile = shape.sizes;
    for (auto& s : grid) tile[s.axis] = std::min(s.tile, shape.sizes[s.axis]);
    std::vector<double> near, shared;
    for (int i = 0; i < shape.reads; ++i) {
        const Data& d = shape.moved[i];
        const double own = Extents::count(tile, d.axes) * d.bytes;
        near.push_back(own * staying(shape.steps[i], tile, d.bytes, own, device.l2));
    }
    for (auto& s : grid) {
        double sum = 0.0;
        for (int i = 0; i < shape.reads; ++i)
            if (!(shape.moved[i].axes >> s.axis & 1)) sum += near[i];
        shared.push_back(sum);
    }
    std::vector<int> out(grid.size());
    std::iota(out.begin(), out.end(), 0);
    std::stable_sort(out.begin(), out.end(), [&](int x, int y) { return shared[x] < shared[y]; });
    return out;
}

std::vector<Best> best(const Shape& shape, const Device& device,
                       const std::vector<std::vector<Split>>& grids,
                       const std::vector<std::vector<Split>>& loops, std::int64_t most, int keep,
                       bool ordered) {
    std::vector<Best> found;
    each_grid(grids, most, [&](std::int64_t combination, const std::vector<Split>& grid) {
        Placed placed = on_grid(shape, grid);
        placed.ordered = ordered;
        if (ordered) {
            placed.grid.clear();
            for (int k : order(shape, device, grid)) placed.grid.push_back(grid[k]);
        }
        for (std::size_t l = 0; l < loops.size(); ++l)
            found.push_back({looped(shape, device, placed, loops[l]),
                             combination * static_cast<std::int64_t>(loops.size()) +
                                 static_cast<std::int64_t>(l)});
    });
    const auto count = std::min(found.size(), static_cast<std::size_t>(keep));
    std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(count), found.end(),
                      [](const Best& x, const Best& y) {
                          return x.seconds != y.seconds ? x.seconds < y.seconds : x.at < y.at;
                      });
    found.resize(count);
    return found;
}

std::vector<double> least(const Shape& shape, const Device& device,
                          const std::vector<std::vector<Split>>& grids, double step,
                          const std::vector<Prices>& prices) {
    std::vector<double> out(prices.size(), std::numeric_limits<double>::infinity());
    each_grid(grids, std::numeric_limits<std::int64_t>::max(),
              [&](std::int64_t, const std::vector<Split>& grid) {
                  Placed placed = on_grid(shape, grid);
                  placed.extents.step = placed.extents.tile;
                  for (auto& n : placed.extents.step) n = std::min(n, step);
                  const Times t = predicted(shape, device, placed, 1.0);
                  const double both = (1.0 + Times::overlap) * std::max(t.compute, t.memory);
                  for (std::size_t k = 0; k < prices.size(); ++k) {
                      // What is added hides behind the greater of the two times first.
                      const double paid =
                          prices[k].compute * std::max(t.memory - t.compute, 0.0) +
                          prices[k].memory * std::max(t.compute - t.memory, 0.0);
                      out[k] = std::min(out[k], t.more + both - paid);
                  }
              });
    return out;
}

}  // namespace superopt::place
