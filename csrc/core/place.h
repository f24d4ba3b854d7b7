// The cost of a kernel's placements: which tiles of its axes are predicted to be fastest.
//
// The C++ twin of superopt/cost/model.py (kernel_seconds): the same sums in the same order, over
// axes that are numbers here and sets of axes that are bits.
#pragma once

#include <cstdint>
#include <vector>

namespace superopt::place {

using Axes = std::uint64_t;  // one bit for each axis of the kernel

struct Work {
    Axes axes;
    double flops;
    int unit;  // index into Device::rates
};

struct Data {
    Axes axes;
    double bytes;  // of one element
};

struct Part {
    Axes axes, over;  // of the result; summed over
    double bytes;
};

// How some data lies in memory: an axis, and the bytes from one element to the next along it.
struct Step {
    int axis;
    double bytes;
};

// A value that may get a tile buffer; what it reduces, if it does.
struct Held {
    Axes axes, over;
    double bytes;  // of one element
};

struct Shape {
    std::vector<double> sizes;  // per axis
    std::vector<Work> works;
    std::vector<Data> moved;  // stored values read, then results
    int reads;                // how many of ``moved`` are read
    std::vector<std::vector<Step>> steps;  // of each of those that are read, ascending
    std::vector<Data> tiles;  // values buffered in a task
    std::vector<Part> parts;  // what a task stores of a reduction that is split
    Axes reduced = 0;
    std::vector<Held> held;
    std::vector<Data> factors;  // what corrects accumulators, in tasks and in the merge of parts
};

struct Device {
    std::vector<double> rates;  // flop/s of each unit of a core; of plain functions first
    double cores, dram, l3, l1, l2, l3_bytes, launch, step, tile_memory;
};

struct Split {
    int axis;
    double tile;
};

struct Best {
    double seconds;
    std::int64_t at;  // number of the placement: grid choices in row-major order, loops innermost
};

// The predicted seconds of one placement; infinite where its tile buffers do not fit.
double seconds(const Shape& shape, const Device& device, const std::vector<Split>& grid,
               const std::vector<Split>& loop);

// A grid in the order of ``task_order``, as positions: neighbouring tasks, which differ in the last
// axis, share the largest part of what they read.
std::vector<int> order(const Shape& shape, const Device& device, const std::vector<Split>& grid);

// The cheapest placements, first of equals first: one tile of each axis of ``grids``, of at most
// ``most`` such combinations, with each of ``loops``. ordered: each is in its ``order``; else no task
// finds what another one has read.
std::vector<Best> best(const Shape& shape, const Device& device,
                       const std::vector<std::vector<Split>>& grids,
                       const std::vector<std::vector<Split>>& loops, std::int64_t most, int keep,
                       bool ordered);

// Prices of a second of compute and one of memory, see ``least``.
struct Prices {
    double compute, memory;
};

// What a kernel that computes at least this shape costs at least beyond what it is paid for the rest
// of what it computes, for each of some prices: under one tile of each axis of ``grids``, whatever it
// loops over in steps of at least ``step``. Prices lie between ``overlap`` and 1, and their sum is at
// most 1 + overlap.
std::vector<double> least(const Shape& shape, const Device& device,
                          const std::vector<std::vector<Split>>& grids, double step,
                          const std::vector<Prices>& prices);

}  // namespace superopt::place
