
// ==== so_dot.h: contraction of factors that are contiguous along k; transposition ===================

// sums[i] = all lanes of v[i] added up, for M vectors.
template <int M, class V, class T> SO_INLINE void so_fold_all(const V (&v)[M], T* sums) {
#if defined(__AVX512F__)
  if constexpr (M == 16 && so_lanes_of<V> == 16 && std::is_same_v<T, float>) {
    // Halves, then quarters, then pairs are added; the order of the inputs undoes the shuffles.
    constexpr int from[16] = {0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15};
    __m512 x[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) x[from[i]] = (__m512)v[i];
#pragma GCC unroll 16
    for (int i = 0; i < 8; ++i)
      x[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x[i], x[i + 8], 0x44), _mm512_shuffle_f32x4(x[i], x[i + 8], 0xee));
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i)
      x[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x[i], x[i + 4], 0x88), _mm512_shuffle_f32x4(x[i], x[i + 4], 0xdd));
    const __m512 y = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[2]), _mm512_unpackhi_ps(x[0], x[2]));
    const __m512 z = _mm512_add_ps(_mm512_unpacklo_ps(x[1], x[3]), _mm512_unpackhi_ps(x[1], x[3]));
    _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_shuffle_ps(y, z, 0x44), _mm512_shuffle_ps(y, z, 0xee)));
    return;
  }
#endif
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) sums[i] = so_fold(v[i], [](auto a, auto b) SO_LAMBDA { return a + b; });
}

template <int R, int C, int N, class T, int64_t TILES, class TA, class TB, class TD, class Rows, class Cols,
          class Ahead>
SO_INLINE void so_dot_tile(const TA* a, const TB* b, TD* d, Rows rows, Cols cols, int64_t i, int64_t j,
                           int64_t k, bool load, Ahead& ahead) {
  using V = so_vec<T, N>;
  V acc[R * C];
  const TA* ar[R];
  const TB* bc[C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) ar[r] = a + rows(i + r).a;
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c) bc[c] = b + cols(j + c).a;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) acc[r * C + c] = V{};
  using pace = so_pace<TILES, C>;  // lines of C columns for each step
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
  if constexpr (N == 16 && std::is_same_v<TA, so_bf16> && std::is_same_v<TB, so_bf16>) {
    const auto step = [&](int64_t q, uint32_t mask) SO_LAMBDA {
      __m512bh bv[C];
      if (q / 32 % pace::every == 0) ahead.template lines<pace::lines>();
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        bv[c] = (__m512bh)_mm512_maskz_loadu_epi16(mask, bc[c] + q);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const __m512bh av = (__m512bh)_mm512_maskz_loadu_epi16(mask, ar[r] + q);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) acc[r * C + c] = (V)_mm512_dpbf16_ps((__m512)acc[r * C + c], av, bv[c]);
      }
    };
    int64_t q = 0;
    for (; q + 32 <= k; q += 32) step(q, ~0u);
    if (q < k) step(q, (1u << (k - q)) - 1);
    k = 0;  // nothing is left for the loop below
  }
#endif
  so_steps<N>(k, [&](int64_t q, auto part) SO_LAMBDA {
    V bv[C];
    if (q / N % pace::every == 0) ahead.template lines<pace::lines>();
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      bv[c] = so_load<T, N>(bc[c] + q, part);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V av = so_load<T, N>(ar[r] + q, part);
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) acc[r * C + c] += av * bv[c];
    }
  });
  T sums[R * C];
  so_fold_all(acc, sums);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      TD& out = d[rows(i + r).d + cols(j + c).d];
      const T sum = sums[r * C + c];
      out = so_cvt1<TD>(load ? so_cvt1<T>(out) + sum : sum);
    }
}
// The whole product, KB steps of k at a time, so that the rows of a stay in the first cache; columns
// at least FAR bytes on are read ahead while these are worked on; next: as for so_mm.
template <int R, int C, int N, int KB, bool AHEAD, class T, class M, class NN, class TA, class TB,
          class TD, class Rows, class Cols>
SO_INLINE void so_mm_dot(M m, NN n, int64_t k, const TA* a, const TB* b, TD* d, Rows rows, Cols cols,
                         bool load, const TB* next = nullptr) {
  constexpr int64_t FAR = 8192, tiles = so_tiles<R, M>;
  int64_t k0 = 0;
  do {
    const int64_t kb = so_least(KB, k - k0);
    const int64_t on = FAR / (int64_t(sizeof(TB)) * C * kb + 1) * C + C;  // columns between
    so_row_tiles<C>(n, [&]<int CC>(int64_t j) SO_LAMBDA {
      so_no_ahead none;
      const bool here = j + on < n;
      const int64_t q = here ? j + on : j + on - n, at = cols(q).a;
      auto far = so_reads((here || !next ? b : next) + k0 + at, cols(q + 1).a - at, kb, here || next ? CC : 0);
      so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
        if constexpr (AHEAD)
          if (so_known<M> >= 0 || i == 0)
            return so_dot_tile<RR, CC, N, T, tiles>(a + k0, b + k0, d, rows, cols, i, j, kb, load, far);
        so_dot_tile<RR, CC, N, T, 1>(a + k0, b + k0, d, rows, cols, i, j, kb, load, none);
      });
    });
    load = true;
    k0 += KB;
  } while (k0 < k);
}

// -- transposition ------------------------------------------------------------------------------------

#if defined(__AVX512F__)
SO_INLINE void so_transpose16(__m512 (&x)[16]) {
  __m512 y[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_shuffle_ps(y[i], y[i + 2], 0x44), x[i + 1] = _mm512_shuffle_ps(y[i], y[i + 2], 0xee);
    x[i + 2] = _mm512_shuffle_ps(y[i + 1], y[i + 3], 0x44);
    x[i + 3] = _mm512_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    const __m512 p = _mm512_shuffle_f32x4(x[i], x[i + 4], 0x88), q = _mm512_shuffle_f32x4(x[i], x[i + 4], 0xdd);
    const __m512 r = _mm512_shuffle_f32x4(x[i + 8], x[i + 12], 0x88), s = _mm512_shuffle_f32x4(x[i + 8], x[i + 12], 0xdd);
    y[i] = _mm512_shuffle_f32x4(p, r, 0x88), y[i + 8] = _mm512_shuffle_f32x4(p, r, 0xdd);
    y[i + 4] = _mm512_shuffle_f32x4(q, s, 0x88), y[i + 12] = _mm512_shuffle_f32x4(q, s, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}
#endif
// d[j * ds + i] = x[i * xs + j] for i < m, j < n: each side contiguous along its own axis.
template <class D, class S>
SO_INLINE void so_transpose(D* d, int64_t ds, const S* x, int64_t xs, int64_t m, int64_t n) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(S) <= 4 && sizeof(D) <= 4) {
    for (int64_t i = 0; i < m; i += 16)
      for (int64_t j = 0; j < n; j += 16) {
        const int rows = int(so_least(16, m - i)), cols = int(so_least(16, n - j));
        __m512 v[16];
        for (int r = 0; r < 16; ++r)
          v[r] = r < rows ? (__m512)so_load<float, 16>(x + (i + r) * xs + j, so_part{cols}) : __m512{};
        so_transpose16(v);
        for (int c = 0; c < cols; ++c) so_store<16>(d + (j + c) * ds + i, (so_vec<float, 16>)v[c], so_part{rows});
      }
    return;
  }
#endif
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) d[j * ds + i] = so_cvt1<D>(x[i * xs + j]);
}
