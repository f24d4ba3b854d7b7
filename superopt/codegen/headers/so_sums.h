
// ==== so_sums.h: contraction of factors that are made in registers as they are read ================
// st(i, j, sum over g of scale(i, j, g) * sum over k of sum over p of a_p(i, g, k) * b_p(j, g, k)).
// Vectors run along k; a factor is a function of its place, so that what is stored in few bits is
// unpacked, shifted and converted between memory and the product.

template <class T, int N, int P> struct so_factors { so_vec<T, N> v[P]; };
template <int P, class F> SO_INLINE F so_first_lanes(F f, so_full) { return f; }
template <int P, class F> SO_INLINE F so_first_lanes(F f, so_part part) {
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) f.v[p] = so_keep(f.v[p], decltype(f.v[p] - f.v[p]){}, part.n);
  return f;
}

template <int R, int C, int N, int P, bool SCALED, class T, class G, class K, class A, class B, class S,
          class Ahead, class Out>
SO_INLINE void so_sums_tile(int64_t i, int64_t j, G groups, K k, A a, B b, S scale, Ahead ahead, Out out) {
  using V = so_vec<T, N>;
  V acc[R * C];
#pragma GCC unroll 32
  for (int x = 0; x < R * C; ++x) acc[x] = V{};
  for (int64_t g = 0; g < groups; ++g) {
    V own[R * C];
#pragma GCC unroll 32
    for (int x = 0; x < R * C; ++x) own[x] = SCALED ? V{} : acc[x];
    const auto step = [&](int64_t q, auto part) SO_LAMBDA {
      so_factors<T, N, P> av[R];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) av[r] = so_first_lanes<P>(a(i + r, g, q, part), part);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        const so_factors<T, N, P> bv = so_first_lanes<P>(b(j + c, g, q, part), part);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) own[r * C + c] += av[r].v[p] * bv.v[p];
      }
    };
    int64_t q = 0;
    for (; q + 64 <= k; q += 64) {  // a line of bytes of each column
      ahead.template lines<C>();
      for (int l = 0; l < 64; l += N) step(q + l, so_full{});
    }
    if constexpr (so_known<K> < 0 || so_known<K> % 64 != 0) {
      if (q < k) ahead.template lines<C>();
      for (; q + N <= k; q += N) step(q, so_full{});
      if (q < k) step(q, so_part{int(k - q)});
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        if constexpr (SCALED) acc[r * C + c] += so_splat<T, N>(scale(i + r, j + c, g)) * own[r * C + c];
        else acc[r * C + c] = own[r * C + c];
      }
  }
  T sums[R * C];
  so_fold_all(acc, sums);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) out(i + r, j + c, sums[r * C + c]);
}
// near(j, g, q) is where column j begins, far(j) reads ahead what else the column needs. What follows the
// last column is the next task's first.
template <int R, int C, int N, int P, bool SCALED, class T, class M, class NN, class G, class K, class A,
          class B, class S, class Near, class Far, class Out>
SO_INLINE void so_sums(M m, NN n, G groups, K k, A a, B b, S scale, Near near, Far far, Out out) {
  so_row_tiles<C>(n, [&]<int CC>(int64_t j) SO_LAMBDA {
    so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
      if (i > 0)
        return so_sums_tile<RR, CC, N, P, SCALED, T>(i, j, groups, k, a, b, scale, so_no_ahead{}, out);
#pragma GCC unroll 16
      for (int c = 0; c < CC; ++c) far(j + CC + c);
      const auto first = near(j + CC, 0, 0);
      const auto ahead =
          so_reads(first, near(1, 0, 0) - near(0, 0, 0), near(0, groups - 1, k) - near(0, 0, 0), CC);
      so_sums_tile<RR, CC, N, P, SCALED, T>(i, j, groups, k, a, b, scale, ahead, out);
    });
  });
}
