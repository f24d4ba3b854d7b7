
// ==== so_tile.h: register-blocked contraction ======================================================
// d[i][j] (+)= sum over k of a[i][k] * b[k][j]. Rows i may be any combination of axes: ``rows(i)``
// gives the offsets of row i in a and in d. Columns j are contiguous in b and d.

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
    for (int c = 0; c < C; ++c) acc[r][c] = V{};
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
    for (int c = 0; c < C; ++c)
      // The old sum joins last: short chains of additions lose less than one long chain.
      so_store<N>(dr[r] + c * N, load ? so_load<T, N>(dr[r] + c * N, part) + acc[r][c] : acc[r][c], part);
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

// How b is read: where it lies, reading the next block ahead, or copied panel by panel into a dense
// block first, which pays when many rows use it (rows of b often lie a power of two apart, and then
// share a few sets of each cache).
enum class so_read { plain, ahead, panel };

// The whole product, KB steps of k at a time, so that a block of b stays near while all rows use it.
template <int R, int C, int N, int KB, so_read HOW, class T, class M, class NN, class TA, class TB,
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
      if constexpr (HOW == so_read::panel) {
        alignas(64) T panel[KB * CC * N];
        for (int64_t q = 0; q < kb; ++q) {
          far.template lines<(CC * N * int(sizeof(TB)) + 63) / 64>();
#pragma GCC unroll 16
          for (int c = 0; c < CC; ++c)
            so_store<N>(panel + (q * CC + c) * N, so_load<T, N>(bk + q * sb + j + c * N, part), so_full{});
        }
        return so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
          so_mm_tile<RR, CC, N, T>(ak, sa, panel, CC * N, d + j, rows, i, kb, load, part, none);
        });
      }
      so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
        if constexpr (HOW == so_read::ahead && RR == R)
          if (i == 0)
            return so_mm_tile<RR, CC, N, T>(ak, sa, bk + j, sb, d + j, rows, i, kb, load, part, far);
        so_mm_tile<RR, CC, N, T>(ak, sa, bk + j, sb, d + j, rows, i, kb, load, part, none);
      });
    });
    load = true;
    k0 += KB;
  } while (k0 < k);
}

// -- both factors stored in bf16: pairs of k, exact products, sums in float ---------------------------

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
SO_INLINE __m512i so_bf16_row(const so_bf16* p, uint32_t mask) {
  return _mm512_maskz_loadu_epi16(__mmask32(mask), p);
}
SO_INLINE uint32_t so_first(int64_t n) { return n >= 32 ? ~0u : (1u << n) - 1; }
SO_INLINE void so_pair_load(const float* d, uint32_t mask, bool load, __m512& x, __m512& y) {
  x = y = _mm512_setzero_ps();
  if (!load) return;
  const __m512 u = _mm512_maskz_loadu_ps(__mmask16(mask), d);
  const __m512 v = _mm512_maskz_loadu_ps(__mmask16(mask >> 16), d + 16);
  const __m512i even = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  const __m512i odd = _mm512_setr_epi32(4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  x = _mm512_permutex2var_ps(u, even, v), y = _mm512_permutex2var_ps(u, odd, v);
}
SO_INLINE void so_pair_store(float* d, uint32_t mask, __m512 x, __m512 y) {
  const __m512i lo = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i hi = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
  _mm512_mask_storeu_ps(d, __mmask16(mask), _mm512_permutex2var_ps(x, lo, y));
  _mm512_mask_storeu_ps(d + 16, __mmask16(mask >> 16), _mm512_permutex2var_ps(x, hi, y));
}
// R rows x C blocks of 32 columns. Interleaving two rows of b within 128-bit lanes permutes the
// columns of the sums; loading and storing them puts that right.
template <int R, int C, class Rows, class Ahead>
SO_INLINE void so_pair_tile(const so_bf16* a, const so_bf16* b, int64_t sb, float* d, Rows rows,
                            int64_t i, int64_t kb, bool load, uint32_t mask, Ahead& ahead) {
  __m512 acc[R][2 * C];
  const so_bf16* ar[R];
  float* dr[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const so_row at = rows(i + r);
    ar[r] = a + at.a, dr[r] = d + at.d;
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) so_pair_load(dr[r] + 32 * c, mask, load, acc[r][2 * c], acc[r][2 * c + 1]);
  }
  const auto step = [&](int64_t k, bool two) SO_LAMBDA {
    __m512bh lo[C], hi[C];
    ahead.template lines<C>();
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      const __m512i x = so_bf16_row(b + k * sb + 32 * c, mask);
      const __m512i y = two ? so_bf16_row(b + (k + 1) * sb + 32 * c, mask) : _mm512_setzero_si512();
      if (two) ahead.template lines<1>();
      lo[c] = (__m512bh)_mm512_unpacklo_epi16(x, y), hi[c] = (__m512bh)_mm512_unpackhi_epi16(x, y);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      uint32_t pair = 0;
      std::memcpy(&pair, ar[r] + k, two ? 4 : 2);
      const __m512bh av = (__m512bh)_mm512_set1_epi32(int(pair));
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) {
        acc[r][2 * c] = _mm512_dpbf16_ps(acc[r][2 * c], lo[c], av);
        acc[r][2 * c + 1] = _mm512_dpbf16_ps(acc[r][2 * c + 1], hi[c], av);
      }
    }
  };
  int64_t k = 0;
  for (; k + 2 <= kb; k += 2) step(k, true);
  if (k < kb) step(k, false);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) so_pair_store(dr[r] + 32 * c, mask, acc[r][2 * c], acc[r][2 * c + 1]);
}
template <int R, int C, int KB, so_read HOW, class M, class NN, class Rows>
SO_INLINE void so_mm_bf16(M m, NN n, int64_t k, const so_bf16* a, const so_bf16* b, int64_t sb, float* d,
                          Rows rows, bool load) {
  int64_t k0 = 0;
  do {
    const int64_t kb = so_least(KB, k - k0);
    const so_bf16 *const bk = b + k0 * sb, *const ak = a + k0;
    so_ahead<so_bf16> far{bk + KB * sb, sb, n};
    so_no_ahead none;
    const auto columns = [&]<int CC>(int64_t j, uint32_t mask) SO_LAMBDA {
      if constexpr (HOW == so_read::panel) {
        alignas(64) so_bf16 panel[KB * CC * 32];
        for (int64_t q = 0; q < kb; ++q) {
          far.template lines<CC>();
#pragma GCC unroll 16
          for (int c = 0; c < CC; ++c)
            _mm512_store_si512(panel + (q * CC + c) * 32, so_bf16_row(bk + q * sb + j + c * 32, mask));
        }
        return so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
          so_pair_tile<RR, CC>(ak, panel, CC * 32, d + j, rows, i, kb, load, mask, none);
        });
      }
      so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
        if constexpr (HOW == so_read::ahead && RR == R)
          if (i == 0)
            return so_pair_tile<RR, CC>(ak, bk + j, sb, d + j, rows, i, kb, load, mask, far);
        so_pair_tile<RR, CC>(ak, bk + j, sb, d + j, rows, i, kb, load, mask, none);
      });
    };
    int64_t j = 0;
    for (; j + C * 32 <= n; j += C * 32) columns.template operator()<C>(j, ~0u);
    if constexpr (so_known<NN> < 0 || so_known<NN> % (C * 32) != 0)
      for (; j < n; j += 32) columns.template operator()<1>(j, so_first(n - j));
    load = true;
    k0 += KB;
  } while (k0 < k);
}
#else
template <int R, int C, int KB, so_read HOW, class M, class NN, class Rows>
SO_INLINE void so_mm_bf16(M m, NN n, int64_t k, const so_bf16* a, const so_bf16* b, int64_t sb, float* d,
                          Rows rows, bool load) {
  so_mm<R, C, 8, KB, HOW, float>(m, n, k, a, 1, b, sb, d, rows, load);
}
#endif

// -- memory of a task that does not fit the stack ---------------------------------------------------

struct so_arena {
  void* p = nullptr;
  size_t n = 0;
  ~so_arena() { std::free(p); }
  char* get(size_t bytes) {
#ifdef __SANITIZE_ADDRESS__  // a block of its own for each need, so that what lies beyond it is seen
    const size_t unit = 64;
    const bool fits = bytes == n;
#else
    const size_t unit = 4096;
    const bool fits = bytes <= n;
#endif
    if (!fits) {
      std::free(p);
      n = (bytes + unit - 1) / unit * unit;
      p = std::aligned_alloc(64, n);
      if (!p) n = 0;
    }
    return static_cast<char*>(p);
  }
};
