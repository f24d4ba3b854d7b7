
// ==== so_sum.h: reductions of one statement ===========================================================

// A sum of floats, kept in double. Terms come as sums of a few, made as a tree: adding equals to
// equals rounds either way, where adding to one growing float would round the same way each time.
template <class V> struct so_sum {
  double total = 0;
  SO_INLINE void add(V x) { total += double(x); }
  SO_INLINE double value() const { return total; }
};
template <so_vector V> struct so_sum<V> {
  static constexpr int N = so_lanes_of<V>, H = N > 2 ? N / 2 : N;
  so_vec<double, H> lo{}, hi{};
  SO_INLINE void add(V x) {
    if constexpr (N == H) lo += so_cvt<double, H>(x);
    else lo += so_cvt<double, H>(so_half<0>(x)), hi += so_cvt<double, H>(so_half<1>(x));
  }
  SO_INLINE V value() const {
    if constexpr (N == H) return so_cvt<float, H>(lo);
    else return so_both(so_cvt<float, H>(lo), so_cvt<float, H>(hi));
  }
  template <class P> SO_INLINE void store(double* p, bool accumulate, P part) const {
    if constexpr (N == H) return so_put<double, H>(p, accumulate ? so_raw<double, H>(p, part) + lo : lo, part);
    const auto a = so_half_of<0, N>(part), b = so_half_of<1, N>(part);
    so_put<double, H>(p, accumulate ? so_raw<double, H>(p, a) + lo : lo, a);
    so_put<double, H>(p + H, accumulate ? so_raw<double, H>(p + H, b) + hi : hi, b);
  }
  SO_INLINE double folded() const {
    return so_fold(lo + hi, [](auto a, auto b) SO_LAMBDA { return a + b; });
  }
};
template <int U, class F> SO_INLINE auto so_tree(int64_t u, F f) {
  if constexpr (U == 1) return f(u);
  else return so_tree<U / 2>(u, f) + so_tree<U / 2>(u + U / 2, f);
}
// Adds f(0), ..., f(n - 1) to a sum, U at a time.
template <int U, class V, class F> SO_INLINE void so_add(so_sum<V>& sum, int64_t n, F f) {
  int64_t i = 0;
  for (; i + U <= n; i += U) sum.add(so_tree<U>(i, f));
  for (; i < n; ++i) sum.add(f(i));
}
// The same along the lanes: f(i, part) gives N elements.
template <int N, int U, class V, class F> SO_INLINE void so_add_lanes(so_sum<V>& sum, int64_t n, F f) {
  int64_t i = 0;
  for (; i + U * N <= n; i += U * N)
    sum.add(so_tree<U>(0, [&](int64_t u) SO_LAMBDA { return f(i + u * N, so_full{}); }));
  for (; i + N <= n; i += N) sum.add(f(i, so_full{}));
  if (i < n) sum.add(so_keep(f(i, so_part{int(n - i)}), V{}, int(n - i)));
}
// op over f(0), ..., f(n - 1) in U independent chains.
template <int U, class T, class Op, class F> SO_INLINE T so_reduce(int64_t n, T start, Op op, F f) {
  T a[U];
  for (int u = 0; u < U; ++u) a[u] = start;
  int64_t i = 0;
  for (; i + U <= n; i += U)
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) a[u] = op(a[u], f(i + u));
  for (; i < n; ++i) a[0] = op(a[0], f(i));
#pragma GCC unroll 16
  for (int u = 1; u < U; ++u) a[0] = op(a[0], a[u]);
  return a[0];
}
// The same along the lanes: f(i, part) gives N elements; the lanes are combined at the end.
template <int N, int U, class T, class Op, class F>
SO_INLINE T so_reduce_lanes(int64_t n, T start, Op op, F f) {
  using V = std::remove_cvref_t<decltype(f(int64_t(0), so_full{}))>;
  const V identity = V{} + so_elem<V>(std::is_same_v<T, bool> ? -int(start) : start);
  V a[U];
  for (int u = 0; u < U; ++u) a[u] = identity;
  int64_t i = 0;
  for (; i + U * N <= n; i += U * N)
#pragma GCC unroll 16
    for (int u = 0; u < U; ++u) a[u] = op(a[u], f(i + u * N, so_full{}));
  for (; i + N <= n; i += N) a[0] = op(a[0], f(i, so_full{}));
  if (i < n) a[1 % U] = op(a[1 % U], so_keep(f(i, so_part{int(n - i)}), identity, int(n - i)));
#pragma GCC unroll 16
  for (int u = 1; u < U; ++u) a[0] = op(a[0], a[u]);
  return T(so_fold(a[0], op));
}
