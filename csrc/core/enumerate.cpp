// Bottom-up enumeration of values (superopt/search/oracle.py is the definition).
#include "enumerate.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <unordered_map>

#include "part.h"

namespace superopt::search {

namespace {

using Clock = std::chrono::steady_clock;

PolyId combine(const Problem& problem, Algebra& algebra, StepKind kind, int index, PolyId a,
               PolyId b) {
    if (kind == StepKind::mul) return algebra.mul(a, b);
    if (kind == StepKind::add) return algebra.add(a, b);
    if (kind == StepKind::reduce) return algebra.reduce(a, index);
    for (auto& [law, name] : problem.functions[index]) a = algebra.apply(law, name, a);
    return a;
}

// An entry of the table of terms made: its key of four words, and its place.
constexpr std::size_t made_entry = sizeof(Key) + 4 * sizeof(Word) + table_entry;

class Engine {
public:
    Engine(const Problem& problem, const Limits& limits)
        : problem_(problem), limits_(limits), started_(Clock::now()) {}

    Space run();

private:
    struct Item {
        int cls;
        PolyId form;
        const Extremes* extremes;
    };

    bool seed();
    std::optional<Value> evaluate(const Made& made) const;
    int class_of(Value value);
    void add_form(int cls, PolyId form);
    void record(const Made& made, int cls);
    bool expand(std::size_t i);
    bool expand_to(int operators);
    bool unary(std::size_t i);
    bool binary(std::size_t j, std::size_t i);
    std::uint64_t due() const;
    bool limited() const { return limits_.operators >= 0; }
    bool attempt(StepKind kind, int index, std::size_t i, std::size_t j);
    bool may_be_part(StepKind kind, int index, std::size_t i, std::size_t j, PolyId& form);
    bool spent();
    std::size_t held() const { return held_ + algebra_.held() + (targets_ ? targets_->held() : 0); }
    Made made(StepKind kind, int index, int a, int b) const;

    static Key key(const Made& m) {
        return {static_cast<Word>(m.kind), static_cast<Word>(m.index),
                static_cast<Word>(m.args[0]), static_cast<Word>(m.args[1])};
    }

    const Problem& problem_;
    const Limits& limits_;
    Clock::time_point started_, polled_ = Clock::now();
    Algebra algebra_;
    std::optional<Field> field_;
    std::optional<Targets> targets_;
    PolyId one_ = -1;
    std::vector<Value> values_;
    std::vector<Mask> masks_;
    std::vector<std::vector<PolyId>> forms_;
    std::vector<Item> items_;
    std::vector<std::vector<std::size_t>> by_operators_;  // items, where operators are limited
    std::unordered_map<Key, int, KeyHash> by_value_;
    std::unordered_map<Key, int, KeyHash> made_;  // -1: no value
    std::size_t held_ = 0;
    Space out_;
};

Space Engine::run() {
    try {
        if (!seed()) return std::move(out_);
    } catch (const TooLarge&) {
        out_.unsupported = "the normal form of a source term is too large";
        return std::move(out_);
    } catch (const Pole&) {
        out_.unsupported = "a source term divides by zero";
        return std::move(out_);
    }
    out_.source_held = held();
    if (limited()) {
        while (out_.closed && out_.operators < limits_.operators)
            if ((out_.closed = expand_to(out_.operators + 1))) out_.operators++;
        // Whether there are larger terms is not known.
        out_.closed = false;
        out_.due = due();
    } else {
        for (std::size_t i = 0; out_.closed && i < items_.size(); i++) out_.closed = expand(i);
    }
    out_.closed = out_.closed && !out_.removed.forms;
    out_.queries = targets_->queries;
    out_.keyed_roots = field_->keyed_roots;
    out_.held = held();
    for (auto& v : values_) out_.axes.push_back(v.axes);
    return std::move(out_);
}

// Makes the classes of all source terms; false if one has no value.
bool Engine::seed() {
    const std::vector<PolyId> forms = source_forms(problem_, algebra_);
    one_ = algebra_.constant(number(1));
    std::vector<Num> literals = problem_.literals;
    for (std::size_t n = 0; n < forms.size(); n++) {
        const Terms& t = algebra_.terms(forms[n]);
        if (problem_.steps[n].kind != StepKind::function || t.size() != 1) continue;
        const Mono& m = algebra_.mono(t[0].first);
        const bool constant = m.free.empty() && m.groups.empty();
        literals.push_back(constant ? t[0].second : t[0].second.abs());  // 1 / (x / 64) is 64 times 1 / x
    }
    int negations = 0;
    std::vector<Num> kept;
    for (Num c : literals) {
        if (c.zero() || c.abs() == number(1)) continue;
        kept.push_back(c);
    }
    for (Num c : literals) negations += c.v < 0;
    targets_.emplace(algebra_, forms, kept, negations);
    field_.emplace(problem_);
    auto values = field_->source();
    if (limited()) {
        out_.operators = 0;
        by_operators_.emplace_back();
    }
    for (std::size_t n = 0; n < values.size(); n++) {
        if (!values[n]) {
            out_.unsupported = "a source term has no value";
            return false;
        }
        int c = class_of(std::move(*values[n]));
        out_.class_of.push_back(c);
        auto& s = problem_.steps[n];
        // Under a limit, source terms are reached like all others.
        if (!limited() || s.args.empty()) add_form(c, forms[n]);
        if (s.args.empty()) continue;
        bool indexed = s.kind == StepKind::function || s.kind == StepKind::reduce;
        record(made(s.kind, indexed ? s.index : 0, out_.class_of[s.args[0]],
                    s.args.size() > 1 ? out_.class_of[s.args[1]] : -1),
               c);
    }
    return true;
}

std::optional<Value> Engine::evaluate(const Made& m) const {
    const Value& a = values_[m.args[0]];
    if (m.kind == StepKind::mul) return field_->mul(a, values_[m.args[1]]);
    if (m.kind == StepKind::add) return field_->add(a, values_[m.args[1]]);
    if (m.kind == StepKind::reduce) return field_->reduce(a, m.index);
    return field_->apply(problem_.functions[m.index], a);
}

Made Engine::made(StepKind kind, int index, int a, int b) const {
    if (b >= 0 && b < a) std::swap(a, b);
    return {kind, index, {a, b}};
}

int Engine::class_of(Value value) {
    auto [it, fresh] = by_value_.try_emplace(field_->fingerprint(value), static_cast<int>(values_.size()));
    const int cls = fresh || limits_.share ? it->second : static_cast<int>(values_.size());
    if (cls == static_cast<int>(values_.size())) {
        Mask mask = 0;
        for (int a : value.axes) mask |= Mask{1} << a;
        masks_.push_back(mask);
        held_ += bytes_of(value.axes) + bytes_of(value.data) + bytes_of(it->first) + table_entry +
                 sizeof(Value) + sizeof(Mask) + 2 * sizeof(std::vector<int>);
        values_.push_back(std::move(value));
        forms_.emplace_back();
        out_.derivations.emplace_back();
    }
    return cls;
}

void Engine::add_form(int cls, PolyId form) {
    if (!limits_.prune) form = one_;  // forms are there for pruning alone
    auto& forms = forms_[cls];
    if (std::count(forms.begin(), forms.end(), form)) return;
    if (forms.size() >= static_cast<std::size_t>(problem_.max_forms)) {
        out_.removed.forms++;
        return;
    }
    forms.push_back(form);
    if (limited()) by_operators_.back().push_back(items_.size());
    items_.push_back({cls, form, &targets_->extremes(form)});
    held_ += sizeof(PolyId) + sizeof(Item);
}

void Engine::record(const Made& m, int cls) {
    if (!made_.try_emplace(key(m), cls).second) return;
    held_ += made_entry + sizeof(Made);
    if (m.args[0] == cls || m.args[1] == cls)
        out_.removed.identity++;
    else
        out_.derivations[cls].push_back(m);
}

// Combines item i with itself and all earlier ones; false when the budget ends.
bool Engine::expand(std::size_t i) {
    if (!unary(i)) return false;
    for (std::size_t j = 0; j <= i; j++)
        if (!binary(j, i)) return false;
    return true;
}

// Tries all terms of so many operators, those of fewer being done; false when the budget ends.
bool Engine::expand_to(int operators) {
    by_operators_.emplace_back();
    const int below = operators - 1;
    for (std::size_t i : by_operators_[below])
        if (!unary(i)) return false;
    for (int few = 0; 2 * few <= below; few++)
        for (std::size_t i : by_operators_[below - few])
            for (std::size_t j : by_operators_[few]) {
                if (2 * few == below && j > i) break;
                if (!binary(j, i)) return false;
            }
    return true;
}

// How many terms the items found give within the limit of operators.
std::uint64_t Engine::due() const {
    std::vector<std::map<Mask, std::uint64_t>> found;  // items by operators and axes
    for (auto& items : by_operators_) {
        found.emplace_back();
        for (std::size_t i : items) found.back()[masks_[items_[i].cls]]++;
    }
    const int most = std::min(limits_.operators, static_cast<int>(found.size()));
    std::uint64_t singles = 0, pairs = 0;
    for (int a = 0; a < most; a++)
        for (auto& [mask, many] : found[a]) {
            singles += many * (problem_.functions.size() + __builtin_popcountll(mask & problem_.reducible));
            if (__builtin_popcountll(mask) <= problem_.rank && 2 * a < limits_.operators)
                pairs += many;  // with themselves; all others are counted from both sides
            for (int b = 0; b < most && a + b < limits_.operators; b++)
                for (auto& [other, more] : found[b])
                    if (__builtin_popcountll(mask | other) <= problem_.rank) pairs += many * more;
        }
    return singles + pairs / 2 * (problem_.sums ? 2 : 1);
}

// All functions and sums of item i; false when the budget ends.
bool Engine::unary(std::size_t i) {
    int c = items_[i].cls;
    for (std::size_t f = 0; f < problem_.functions.size(); f++)
        if (!attempt(StepKind::function, static_cast<int>(f), i, i)) return false;
    for (Mask m = masks_[c] & problem_.reducible; m; m &= m - 1)
        if (!attempt(StepKind::reduce, __builtin_ctzll(m), i, i)) return false;
    return true;
}

// Product and sum of two items; false when the budget ends.
bool Engine::binary(std::size_t j, std::size_t i) {
    if (__builtin_popcountll(masks_[items_[i].cls] | masks_[items_[j].cls]) > problem_.rank) {
        out_.removed.rank++;
        return true;
    }
    if (!attempt(StepKind::mul, 0, j, i)) return false;
    return !problem_.sums || attempt(StepKind::add, 0, j, i);
}

bool Engine::attempt(StepKind kind, int index, std::size_t i, std::size_t j) {
    if (spent()) return false;
    out_.states++;
    bool binary = kind == StepKind::mul || kind == StepKind::add;
    PolyId form = -1;
    if (limits_.prune && !may_be_part(kind, index, i, j, form)) {
        out_.removed.abstract++;
        return true;
    }
    Made m = made(kind, index, items_[i].cls, binary ? items_[j].cls : -1);
    if (auto it = made_.find(key(m)); it != made_.end()) {
        int c = it->second;
        if (c >= 0 && m.args[0] != c && m.args[1] != c) add_form(c, form);
        return true;
    }
    std::optional<Value> value = evaluate(m);
    if (!value) {
        made_.emplace(key(m), -1);
        held_ += made_entry;
        out_.removed.undefined++;
        return true;
    }
    auto known = by_value_.find(field_->fingerprint(*value));
    if (known != by_value_.end() && (known->second == m.args[0] || known->second == m.args[1])) {
        record(m, known->second);
        return true;
    }
    const int c = class_of(std::move(*value));
    add_form(c, form);
    record(m, c);
    return true;
}

// Whether the term can be part of a source term, and its normal form.
bool Engine::may_be_part(StepKind kind, int index, std::size_t i, std::size_t j, PolyId& form) {
    const bool binary = kind == StepKind::mul || kind == StepKind::add;
    PolyId first = items_[i].form, second = items_[j].form;
    if ((kind == StepKind::mul && !targets_->may_hold_product(*items_[i].extremes, *items_[j].extremes)) ||
        (kind == StepKind::add && !targets_->may_hold_sum(*items_[i].extremes, *items_[j].extremes))) {
        targets_->queries++;
        return false;
    }
    try {
        form = combine(problem_, algebra_, kind, index, first, binary ? second : -1);
        return form != one_ && targets_->is_part(form);
    } catch (const TooLarge&) {
    } catch (const Pole&) {
    }
    return false;
}

bool Engine::spent() {
    if (limits_.candidates >= 0 && out_.states >= static_cast<std::uint64_t>(limits_.candidates))
        return true;
    if (limits_.memory >= 0 && held() > static_cast<std::size_t>(limits_.memory)) {
        out_.full = true;
        return true;
    }
    if (out_.states % 16) return false;
    auto now = Clock::now();
    if (limits_.seconds >= 0 && std::chrono::duration<double>(now - started_).count() > limits_.seconds)
        return true;
    if (now - polled_ < std::chrono::milliseconds(5)) return false;
    polled_ = now;
    return limits_.stop && limits_.stop(out_.states, values_.size());
}

}  // namespace

std::vector<PolyId> source_forms(const Problem& problem, Algebra& algebra) {
    std::vector<PolyId> forms;
    for (auto& s : problem.steps) {
        switch (s.kind) {
            case StepKind::leaf: {
                Mask axes = 0;
                for (int a : problem.leaves[s.index]) axes |= Mask{1} << a;
                forms.push_back(algebra.leaf(static_cast<Word>(s.index), axes));
                break;
            }
            case StepKind::size: forms.push_back(algebra.size(s.index)); break;
            case StepKind::constant: forms.push_back(algebra.constant(s.value)); break;
            default:
                forms.push_back(combine(problem, algebra, s.kind, s.index, forms[s.args[0]],
                                        s.args.size() > 1 ? forms[s.args[1]] : -1));
        }
    }
    return forms;
}

Space enumerate_values(const Problem& problem, const Limits& limits) {
    return Engine(problem, limits).run();
}

}  // namespace superopt::search
