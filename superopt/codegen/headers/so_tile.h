
// ==== so_tile.h: register-blocked contraction ======================================================
// d[i][j] (+)= sum over k of a[i][k] * b[k][j]. Rows i may be any combination of axes: ``rows(i)``
// gives the offsets of row i in a and in d. Columns j are contiguous in b and d (so_mm), or b's k is
// contiguous (so_mm_dot).

template <int64_t V> struct so_fix {  // an extent known when the code is printed
  constexpr operator int64_t() const { return V; }
};
template <class T> constexpr int64_t so_known = -1;
template <int64_t V> constexpr int64_t so_known<so_fix<V>> = V;

struct so_row { int64_t a, d; };

// Reads the next block of b ahead of its use, row by row: wide runs of lines are what the memory
// system streams best, whatever order the tiles are computed in.
template <class TB> struct so_ahead {
  const TB* p;
  int64_t stride, width, at = 0;
  template <int LINES> SO_INLINE void lines() {
    constexpr int64_t per = 64 / int64_t(sizeof(TB));
#pragma GCC unroll 8
    for (int l = 0; l < LINES; ++l) __builtin_prefetch(p + at + l * per, 0, 2);
    at += LINES * per;
    if (at >= width) at = 0, p += stride;
  }
};
struct so_no_ahead {
  template <int LINES> SO_INLINE void lines() {}
};

// One register tile of R rows and C vectors over kb steps.
template <int R, int C, int N, class T, class TA, class TB, class TD, class Rows, class Part, class Ahead>
SO_INLINE void so_mm_tile(const TA* a, int64_t sa, const TB* b, int64_t sb, TD* d, Rows rows,
                          int64_t i, int64_t kb, bool load, Part part, Ahead& ahead) {
  using V = so_vec<T, N>;
  V acc[R][C];
  const TA* ar[R];
  TD* dr[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const so_row at = rows(i + r);
    ar[r] = a + at.a, dr[r] = d + at.d;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) acc[r][c] = load ? so_load<T, N>(dr[r] + c * N, part) : V{};
  for (int64_t k = 0; k < kb; ++k) {
    V bv[C];
    constexpr int bytes = C * N * int(sizeof(TB));
    ahead.template lines<(bytes + 63) / 64>();
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) bv[c] = so_load<T, N>(b + k * sb + c * N, part);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V av = so_splat<T, N>(so_cvt1<T>(ar[r][k * sa]));
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) acc[r][c] += av * bv[c];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) so_store<N>(dr[r] + c * N, acc[r][c], part);
}

// f<R>(i) for i = 0, R, ...; what is left over is exact when m is known, else halves.
template <int R, class M, class F> SO_INLINE void so_row_tiles(M m, F f) {
  int64_t i = 0;
  for (; i + R <= m; i += R) f.template operator()<R>(i);
  if constexpr (so_known<M> >= 0) {
    constexpr int rest = int(so_known<M> % R);
    if constexpr (rest > 0) f.template operator()<rest>(i);
  } else if constexpr (R > 1) {
    if (i < m) so_row_tiles<R / 2>(int64_t(m) - i, [&]<int Q>(int64_t q) SO_LAMBDA {
      f.template operator()<Q>(i + q);
    });
  }
}
// f<C>(j, part) over n columns, C vectors at a time.
template <int C, int N, class NN, class F> SO_INLINE void so_col_tiles(NN n, F f) {
  int64_t j = 0;
  for (; j + C * N <= n; j += C * N) f.template operator()<C>(j, so_full{});
  constexpr int64_t known = so_known<NN>;
  if constexpr (C > 1 && (known < 0 || known % (C * N) >= N))
    for (; j + N <= n; j += N) f.template operator()<1>(j, so_full{});
  if constexpr (known < 0 || known % N != 0)
    if (j < n) f.template operator()<1>(j, so_part{int(n - j)});
}

// The whole product, KB steps of k at a time, so that a block of b stays near while all rows use it.
template <int R, int C, int N, int KB, bool AHEAD, class T, class M, class NN, class TA, class TB,
          class TD, class Rows>
SO_INLINE void so_mm(M m, NN n, int64_t k, const TA* a, int64_t sa, const TB* b, int64_t sb, TD* d,
                     Rows rows, bool load) {
  int64_t k0 = 0;
  do {
    const int64_t kb = so_least(KB, k - k0);
    const TB* const bk = b + k0 * sb;
    const TA* const ak = a + k0 * sa;
    so_ahead<TB> far{bk + KB * sb, sb, n};
    so_no_ahead none;
    so_col_tiles<C, N>(n, [&]<int CC>(int64_t j, auto part) SO_LAMBDA {
      so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
        if constexpr (AHEAD && RR == R)
          if (i == 0)
            return so_mm_tile<RR, CC, N, T>(ak, sa, bk + j, sb, d + j, rows, i, kb, load, part, far);
        so_mm_tile<RR, CC, N, T>(ak, sa, bk + j, sb, d + j, rows, i, kb, load, part, none);
      });
    });
    load = true;
    k0 += KB;
  } while (k0 < k);
}

// -- both factors contiguous along k ------------------------------------------------------------------

template <int R, int C, int N, class T, class TA, class TB, class TD, class Rows, class Cols>
SO_INLINE void so_dot_tile(const TA* a, const TB* b, TD* d, Rows rows, Cols cols, int64_t i, int64_t j,
                           int64_t k, bool load) {
  using V = so_vec<T, N>;
  V acc[R][C];
  const TA* ar[R];
  const TB* bc[C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) ar[r] = a + rows(i + r).a;
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) bc[c] = b + cols(j + c).a;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) acc[r][c] = V{};
  so_steps<N>(k, [&](int64_t q, auto part) SO_LAMBDA {
    V bv[C];
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) bv[c] = so_load<T, N>(bc[c] + q, part);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V av = so_load<T, N>(ar[r] + q, part);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) acc[r][c] += av * bv[c];
    }
  });
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      TD& out = d[rows(i + r).d + cols(j + c).d];
      const T sum = so_fold(acc[r][c], [](auto x, auto y) SO_LAMBDA { return x + y; });
      out = so_cvt1<TD>(load ? so_cvt1<T>(out) + sum : sum);
    }
}
template <int R, int C, int N, class T, class M, class NN, class TA, class TB, class TD, class Rows,
          class Cols>
SO_INLINE void so_mm_dot(M m, NN n, int64_t k, const TA* a, const TB* b, TD* d, Rows rows, Cols cols,
                         bool load) {
  so_row_tiles<C>(n, [&]<int CC>(int64_t j) SO_LAMBDA {
    so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
      so_dot_tile<RR, CC, N, T>(a, b, d, rows, cols, i, j, k, load);
    });
  });
}
