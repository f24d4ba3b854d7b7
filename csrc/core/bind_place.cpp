// Python bindings of the placement part: the cheapest placements of one kernel.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "core.h"
#include "place.h"

namespace superopt {

namespace nb = nanobind;
using namespace place;

namespace {

using RawWork = std::tuple<Axes, double, int>;
using RawData = std::pair<Axes, double>;
using RawPart = std::tuple<Axes, Axes, double>;
using RawSplit = std::pair<int, double>;

std::vector<Data> data_of(const std::vector<RawData>& raw) {
    std::vector<Data> out;
    for (auto& [axes, bytes] : raw) out.push_back({axes, bytes});
    return out;
}

std::vector<Split> splits_of(const std::vector<RawSplit>& raw) {
    std::vector<Split> out;
    for (auto& [axis, tile] : raw) out.push_back({axis, tile});
    return out;
}

std::vector<std::vector<Split>> choices_of(const std::vector<std::vector<RawSplit>>& raw) {
    std::vector<std::vector<Split>> out;
    for (auto& splits : raw) out.push_back(splits_of(splits));
    return out;
}

struct Kernel {
    Shape shape;
    Device device;

    Kernel(std::vector<double> sizes, const std::vector<RawWork>& works,
           const std::vector<RawData>& reads, const std::vector<std::vector<RawSplit>>& steps,
           const std::vector<RawData>& writes,
           const std::vector<RawData>& tiles, const std::vector<RawPart>& parts, Axes reduced,
           const std::vector<RawPart>& held, const std::vector<RawData>& factors,
           std::vector<double> rates, const std::vector<double>& numbers) {
        if (numbers.size() != 9) throw nb::value_error("a device has nine numbers beside its rates");
        shape.sizes = std::move(sizes);
        for (auto& [axes, flops, unit] : works) shape.works.push_back({axes, flops, unit});
        shape.moved = data_of(reads);
        shape.reads = static_cast<int>(reads.size());
        for (auto& d : data_of(writes)) shape.moved.push_back(d);
        for (auto& lies : steps) {
            auto& out = shape.steps.emplace_back();
            for (auto& [axis, bytes] : lies) out.push_back({axis, bytes});
        }
        shape.tiles = data_of(tiles);
        for (auto& [axes, over, bytes] : parts) shape.parts.push_back({axes, over, bytes});
        shape.reduced = reduced;
        for (auto& [axes, over, bytes] : held) shape.held.push_back({axes, over, bytes});
        shape.factors = data_of(factors);
        device = {std::move(rates), numbers[0], numbers[1], numbers[2], numbers[3],
                  numbers[4],       numbers[5], numbers[6], numbers[7], numbers[8]};
    }
};

}  // namespace

void register_place(nb::module_& m) {
    nb::class_<Kernel>(m, "KernelCost",
                       "Predicts placements of one kernel; see superopt/cost/model.py.")
        .def(nb::init<std::vector<double>, const std::vector<RawWork>&, const std::vector<RawData>&,
                      const std::vector<std::vector<RawSplit>>&, const std::vector<RawData>&, const std::vector<RawData>&,
                      const std::vector<RawPart>&, Axes, const std::vector<RawPart>&,
                      const std::vector<RawData>&, std::vector<double>,
                      const std::vector<double>&>())
        .def("seconds",
             [](const Kernel& k, const std::vector<RawSplit>& grid,
                const std::vector<RawSplit>& loop) {
                 return seconds(k.shape, k.device, splits_of(grid), splits_of(loop));
             })
        .def("order", [](const Kernel& k,
                         const std::vector<RawSplit>& grid) { return order(k.shape, k.device, splits_of(grid)); })
        .def("least",
             [](const Kernel& k, const std::vector<std::vector<RawSplit>>& grids, double step,
                const std::vector<std::pair<double, double>>& raw) {
                 std::vector<Prices> prices;
                 for (auto& [compute, memory] : raw) prices.push_back({compute, memory});
                 return least(k.shape, k.device, choices_of(grids), step, prices);
             })
        .def("best", [](const Kernel& k, const std::vector<std::vector<RawSplit>>& grids,
                        const std::vector<std::vector<RawSplit>>& loops, std::int64_t most,
                        int keep, bool ordered) {
            std::vector<std::pair<double, std::int64_t>> out;
            for (auto& b : best(k.shape, k.device, choices_of(grids), choices_of(loops), most, keep,
                                ordered))
                out.emplace_back(b.seconds, b.at);
            return out;
        });
}

}  // namespace superopt
