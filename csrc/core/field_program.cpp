// Decodes and checks flat programs: every register index and every cell index is within bounds.
#include "field_program.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace superopt::field {
namespace {

[[noreturn]] void malformed(const std::string& what) {
    throw std::invalid_argument("malformed field program: " + what);
}

class Reader {
public:
    explicit Reader(std::span<const std::int64_t> words) : words_(words) {}
    bool done() const { return at_ == words_.size(); }
    std::int64_t next() {
        if (done()) malformed("it ends in the middle of an instruction");
        return words_[at_++];
    }
    std::int64_t count(std::int64_t most) {
        const std::int64_t n = next();
        if (n < 0 || n > most) malformed("a count out of range");
        return n;
    }
    Reader part(std::int64_t n) {
        if (n < 0 || static_cast<std::size_t>(n) > words_.size() - at_) malformed("a length");
        Reader out(words_.subspan(at_, static_cast<std::size_t>(n)));
        at_ += static_cast<std::size_t>(n);
        return out;
    }

private:
    std::span<const std::int64_t> words_;
    std::size_t at_ = 0;
};

std::size_t product(const std::vector<std::int64_t>& sizes) {
    std::size_t out = 1;
    for (const std::int64_t s : sizes) out *= static_cast<std::size_t>(s);
    return out;
}

class Decoder {
public:
    Decoder(std::span<const std::int64_t> code, std::span<const std::int64_t> pool)
        : in_(code), pool_(pool) {}

    Code run() {
        if (in_.next() != 2) malformed("an unknown version");
        const std::int64_t regs = in_.count(std::int64_t(1) << 24);
        out_.levels = static_cast<int>(in_.count(8));
        const std::int64_t literals = in_.count(64);
        for (int l = 0; l < out_.levels; ++l) {
            for (std::int64_t i = 0; i < literals; ++i) {
                out_.literals[l].push_back(static_cast<std::uint32_t>(in_.count(0x7FFFFFFF)));
            }
        }
        for (std::int64_t i = 0; i < regs; ++i) {
            RegInfo r;
            r.real = in_.next() != 0;
            r.mask = static_cast<unsigned>(in_.count((1 << out_.levels) - 1));
            r.cells = static_cast<std::size_t>(in_.count(std::int64_t(1) << 40));
            out_.regs.push_back(r);
        }
        written_.assign(out_.regs.size(), false);
        while (!in_.done()) {
            const std::int64_t op = in_.count(static_cast<std::int64_t>(Op::kOutput));
            Reader body = in_.part(in_.next());
            Instr instr;
            instr.op = static_cast<Op>(op);
            decode(instr, body);
            if (!body.done()) malformed("operands left over");
            out_.instrs.push_back(std::move(instr));
        }
        fuse();
        for (std::size_t i = 0; i < out_.instrs.size(); ++i) {
            Instr& instr = out_.instrs[i];
            instr.nest.merge();
            if (!instr.skip) {
                for (int k = 0; k < instr.nargs; ++k) out_.regs[instr.args[k]].last_use = i;
            }
        }
        return std::move(out_);
    }

private:
    std::size_t source(Reader& r) {
        const auto i = static_cast<std::size_t>(r.next());
        if (i >= out_.regs.size() || !written_[i]) malformed("a register read before it is written");
        return i;
    }
    std::size_t target(Reader& r) {
        const auto i = static_cast<std::size_t>(r.next());
        if (i >= out_.regs.size() || written_[i]) malformed("a register written twice");
        written_[i] = true;
        return i;
    }
    void dims(Reader& r, Nest& nest) {
        const std::int64_t n = r.count(64);
        for (std::int64_t i = 0; i < n; ++i) nest.sizes.push_back(r.count(std::int64_t(1) << 40));
    }
    void strides(Reader& r, Nest& nest) {
        auto& list = nest.strides[nest.n++];
        for (std::size_t i = 0; i < nest.sizes.size(); ++i) {
            list.push_back(r.count(std::int64_t(1) << 40));
        }
    }
    // The walk of source k stays within `cells`, starting `extra` cells in.
    void within(const Nest& nest, int k, std::size_t cells, std::size_t extra = 0) {
        if (product(nest.sizes) == 0) return;
        std::size_t most = extra;
        for (std::size_t i = 0; i < nest.sizes.size(); ++i) {
            most += static_cast<std::size_t>((nest.sizes[i] - 1) * nest.strides[k][i]);
        }
        if (most >= cells) malformed("a cell out of range");
    }
    void covers(const Instr& instr) {
        if (product(instr.nest.sizes) != out_.regs[instr.dst].cells) malformed("a size");
    }
    void levels(unsigned mask, std::size_t reg) {
        const RegInfo& r = out_.regs[reg];
        if (!r.real || (mask & ~r.mask) != 0) malformed("a level that a register lacks");
    }

    void decode(Instr& s, Reader& r);
    void apply(Instr& s, Reader& r);
    void check_kinds(const Instr& s);
    void fuse();

    Reader in_;
    std::span<const std::int64_t> pool_;
    Code out_;
    std::vector<bool> written_;
};

void Decoder::decode(Instr& s, Reader& r) {
    switch (s.op) {
    case Op::kInput:
        s.dst = target(r);
        s.salt = static_cast<std::uint64_t>(r.next());
        s.lo = r.next();
        s.hi = r.next();
        s.dtype = r.next();
        dims(r, s.nest);
        strides(r, s.nest);
        covers(s);
        while (!r.done()) s.values.push_back(r.next());
        return;
    case Op::kConst:
        s.dst = target(r);
        s.lo = r.count(4);  // a status
        if (out_.regs[s.dst].cells != 1) malformed("a literal of many cells");
        while (!r.done()) s.values.push_back(r.next());
        if (s.values.size() != (out_.regs[s.dst].real ? std::size_t(out_.levels) : 1)) {
            malformed("a literal");
        }
        return;
    case Op::kIota:
        s.dst = target(r);
        return;
    case Op::kApply:
        apply(s, r);
        return;
    case Op::kReduce: {
        s.prim = static_cast<Prim>(r.count(static_cast<std::int64_t>(Prim::kOr)));
        s.dst = target(r);
        s.args[0] = source(r);
        s.nargs = 1;
        s.mask = static_cast<unsigned>(r.next());
        s.low = static_cast<int>(r.count(7));
        const std::int64_t n = r.count(64);
        std::vector<std::int64_t> sizes, over;
        for (std::int64_t i = 0; i < n; ++i) {
            sizes.push_back(r.count(std::int64_t(1) << 40));
            over.push_back(r.count(1));
        }
        if (product(sizes) != out_.regs[s.args[0]].cells) malformed("a reduced size");
        std::int64_t step = 1;
        s.nest.n = s.inner.n = 1;
        for (std::size_t i = sizes.size(); i-- > 0; step *= sizes[i]) {
            Nest& nest = over[i] != 0 ? s.inner : s.nest;
            nest.sizes.insert(nest.sizes.begin(), sizes[i]);
            nest.strides[0].insert(nest.strides[0].begin(), step);
        }
        covers(s);
        const bool real = out_.regs[s.dst].real;
        if (real != out_.regs[s.args[0]].real) malformed("a reduction that changes the kind");
        if (real) levels(s.mask | (s.prim == Prim::kMax || s.prim == Prim::kMin ? 1U << s.low : 0U),
                         s.args[0]);
        if (real && s.mask != out_.regs[s.dst].mask) malformed("levels of a reduction");
        if (real && s.prim != Prim::kAdd && s.prim != Prim::kMul && s.prim != Prim::kMax &&
            s.prim != Prim::kMin) {
            malformed("a reduction of floats by this primitive");
        }
        return;
    }
    case Op::kIndex: {
        s.dst = target(r);
        s.args[0] = source(r);
        s.nargs = 1;
        const auto at = static_cast<std::size_t>(r.next());
        const std::size_t cells = out_.regs[s.dst].cells;
        if (at > pool_.size() || cells > pool_.size() - at) malformed("an index table");
        const auto most = static_cast<std::int64_t>(out_.regs[s.args[0]].cells);
        for (const std::int64_t v : pool_.subspan(at, cells)) {
            if (v < 0 || v >= most) malformed("an index out of range");
        }
        s.table = pool_.data() + at;
        s.mask = out_.regs[s.dst].mask;
        if (out_.regs[s.dst].real) levels(s.mask, s.args[0]);
        return;
    }
    case Op::kGather:
        s.dst = target(r);
        s.args[0] = source(r);
        s.args[1] = source(r);
        s.nargs = 2;
        s.lo = r.count(std::int64_t(1) << 40);
        s.hi = r.count(std::int64_t(1) << 40);
        s.values.push_back(r.count(std::int64_t(1) << 41));
        dims(r, s.nest);
        strides(r, s.nest);
        strides(r, s.nest);
        covers(s);
        if (s.lo < 1) malformed("a gather from an empty axis");
        within(s.nest, 0, out_.regs[s.args[0]].cells, static_cast<std::size_t>((s.lo - 1) * s.hi));
        within(s.nest, 1, out_.regs[s.args[1]].cells);
        s.mask = out_.regs[s.dst].mask;
        if (out_.regs[s.args[1]].real) malformed("a gather at floats");
        if (out_.regs[s.dst].real) levels(s.mask, s.args[0]);
        return;
    case Op::kOutput:
        s.args[0] = source(r);
        s.nargs = 1;
        s.low = static_cast<int>(r.count(7));
        dims(r, s.nest);
        strides(r, s.nest);
        within(s.nest, 0, out_.regs[s.args[0]].cells);
        if (out_.regs[s.args[0]].real) levels(1U << s.low, s.args[0]);
        return;
    }
}

void Decoder::apply(Instr& s, Reader& r) {
    s.prim = static_cast<Prim>(r.count(static_cast<std::int64_t>(Prim::kCount) - 1));
    s.dst = target(r);
    s.mask = static_cast<unsigned>(r.count((1 << out_.levels) - 1));
    s.low = static_cast<int>(r.count(7));
    s.salt = static_cast<std::uint64_t>(r.next());
    s.dtype = r.next();
    s.sign[0] = static_cast<int>(r.next());
    s.sign[1] = static_cast<int>(r.next());
    s.nargs = static_cast<int>(r.count(kMaxArgs));
    dims(r, s.nest);
    for (int k = 0; k < s.nargs; ++k) {
        s.args[k] = source(r);
        strides(r, s.nest);
        within(s.nest, k, out_.regs[s.args[k]].cells);
    }
    covers(s);
    check_kinds(s);
}

void Decoder::check_kinds(const Instr& s) {
    static constexpr int kArity[] = {2, 2, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 3, 1, 2, 2, 2, 2, 1, 1, 1, 1, 1};
    const int arity = kArity[static_cast<std::size_t>(s.prim)];
    if (arity != 0 ? s.nargs != arity : s.nargs < 1) malformed("the number of arguments");
    const RegInfo& dst = out_.regs[s.dst];
    if (dst.real && dst.mask != s.mask) malformed("the levels of a result");
    const auto real = [&](int k) { return out_.regs[s.args[k]].real; };
    unsigned need = s.mask;
    bool reals = true;  // what every argument must be
    switch (s.prim) {
    case Prim::kAdd: case Prim::kMul: case Prim::kCopy: reals = dst.real; break;
    case Prim::kMax: case Prim::kMin: reals = dst.real; need |= 1U << s.low; break;
    case Prim::kRecip: case Prim::kSqrt: break;
    case Prim::kExp: need = s.mask << 1; break;
    case Prim::kLog:
        if ((s.mask & 1U) != 0) malformed("a logarithm at level 0");
        need = s.mask >> 1;
        break;
    case Prim::kLt: case Prim::kLe: case Prim::kEq:
        reals = real(0);
        need = 1U << s.low;
        if (dst.real) malformed("a comparison that gives a float");
        break;
    case Prim::kKeyed: case Prim::kKeyedInt: need = 0; break;
    case Prim::kToBool: need = 1U << s.low; break;
    case Prim::kWhere:
        if (real(0) || real(1) != dst.real || real(2) != dst.real) malformed("kinds of a choice");
        if (dst.real) levels(s.mask, s.args[1]), levels(s.mask, s.args[2]);
        return;
    default: reals = false; break;
    }
    const bool makes_real = s.prim == Prim::kRecip || s.prim == Prim::kSqrt ||
                            s.prim == Prim::kExp || s.prim == Prim::kLog ||
                            s.prim == Prim::kKeyed || s.prim == Prim::kToReal;
    if (makes_real && !dst.real) malformed("an exact result of a float primitive");
    for (int k = 0; k < s.nargs; ++k) {
        if (real(k) != reals) malformed("the kind of an argument");
        if (reals) levels(need, s.args[k]);
        if (reals && out_.regs[s.args[k]].mask == 0) malformed("an argument without levels");
    }
}

// A reduction by add of a product of two floats that nothing else reads becomes a contraction.
void Decoder::fuse() {
    std::vector<int> uses(out_.regs.size(), 0);
    std::vector<Instr*> maker(out_.regs.size(), nullptr);
    for (Instr& s : out_.instrs) {
        for (int k = 0; k < s.nargs; ++k) ++uses[s.args[k]];
        if (s.op != Op::kOutput) maker[s.dst] = &s;
    }
    for (Instr& s : out_.instrs) {
        if (s.op != Op::kReduce || s.prim != Prim::kAdd || !out_.regs[s.dst].real) continue;
        Instr* m = maker[s.args[0]];
        if (m->op != Op::kApply || m->prim != Prim::kMul || uses[m->dst] != 1) continue;
        // Each dim of the product is found by its stride in the dense product.
        Nest kept, over;
        kept.n = over.n = 2;
        std::int64_t step = static_cast<std::int64_t>(out_.regs[m->dst].cells);
        bool known = step > 0;
        std::size_t i = 0, j = 0;
        for (std::size_t d = 0; known && d < m->nest.sizes.size(); ++d) {
            step /= m->nest.sizes[d];
            const bool is_over = i < s.inner.sizes.size() && s.inner.strides[0][i] == step &&
                                 s.inner.sizes[i] == m->nest.sizes[d];
            const bool is_kept = j < s.nest.sizes.size() && s.nest.strides[0][j] == step &&
                                 s.nest.sizes[j] == m->nest.sizes[d];
            // Dims of size one may look alike; which of the two takes one does not matter.
            known = is_over || is_kept;
            Nest& nest = is_over ? over : kept;
            is_over ? ++i : ++j;
            nest.sizes.push_back(m->nest.sizes[d]);
            nest.strides[0].push_back(m->nest.strides[0][d]);
            nest.strides[1].push_back(m->nest.strides[1][d]);
        }
        if (!known || product(kept.sizes) != out_.regs[s.dst].cells) continue;
        s.nest = kept;
        s.inner = over;
        s.args[0] = m->args[0];
        s.args[1] = m->args[1];
        s.nargs = 2;
        s.sign[0] = m->sign[0];
        s.sign[1] = m->sign[1];
        s.contraction = true;
        m->skip = true;
    }
}

}  // namespace

std::size_t Nest::cells() const { return product(sizes); }

void Nest::merge() {
    Nest out;
    out.n = n;
    for (std::size_t d = 0; d < sizes.size(); ++d) {
        if (sizes[d] == 1) continue;
        bool even = !out.sizes.empty();
        for (int k = 0; even && k < n; ++k) {
            even = out.strides[k].back() == strides[k][d] * sizes[d];
        }
        if (even) {
            out.sizes.back() *= sizes[d];
            for (int k = 0; k < n; ++k) out.strides[k].back() = strides[k][d];
        } else {
            out.sizes.push_back(sizes[d]);
            for (int k = 0; k < n; ++k) out.strides[k].push_back(strides[k][d]);
        }
    }
    *this = out;
}

Code decode(std::span<const std::int64_t> code, std::span<const std::int64_t> pool) {
    return Decoder(code, pool).run();
}

}  // namespace superopt::field
