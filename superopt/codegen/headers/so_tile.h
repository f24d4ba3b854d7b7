
// ==== so_tile.h: register-blocked contraction ======================================================
// d[i][j] (+)= sum over k of a[i][k] * b[k][j]. Rows i may be any combination of axes: ``rows(i)``
// gives the offsets of row i in a and in d. Columns j are contiguous in b and d.

template <int64_t V> struct so_fix {  // an extent known when the code is printed
  constexpr operator int64_t() const { return V; }
};
template <class T> constexpr int64_t so_known = -1;
template <int64_t V> constexpr int64_t so_known<so_fix<V>> = V;

struct so_row { int64_t a, d; };

// Reads what comes next ahead of its use, row by row: wide runs of lines are what the memory system
// streams best, whatever order the tiles are computed in. left: lines that are still to be read.
template <class TB> struct so_ahead {
  const TB* p;
  int64_t stride, width, left, at = 0;
  template <int LINES> SO_INLINE void lines() {
    if (left <= 0) return;
    constexpr int64_t per = 64 / int64_t(sizeof(TB));
#pragma GCC unroll 8
    for (int l = 0; l < LINES; ++l) __builtin_prefetch(p + at + l * per, 0, 2);
    at += LINES * per, left -= LINES;
    if (at >= width) at = 0, p += stride;
  }
};
template <class TB> SO_INLINE so_ahead<TB> so_reads(const TB* p, int64_t stride, int64_t width, int64_t rows) {
  return {p, stride, width, (width * int64_t(sizeof(TB)) + 63) / 64 * rows};
}
// The next rows of this block, or else the first ones of the block after it, where that is known.
template <class TB>
SO_INLINE so_ahead<TB> so_after(const TB* p, int64_t stride, int64_t width, int64_t rows, const TB* after,
                               int64_t first) {
  return rows > 0 || !after ? so_reads(p, stride, width, rows) : so_reads(after, stride, width, first);
}
struct so_no_ahead {
  template <int LINES> SO_INLINE void lines() {}
};
// Lines are read evenly while the tiles that use this block are made, of which there are TILES: ``lines``
// of them each ``every`` steps, where the block has LINES for each step of one tile.
template <int64_t TILES, int LINES> struct so_pace {
  static constexpr int64_t share = TILES / LINES;
  static constexpr int every = share >= 8 ? 8 : share >= 4 ? 4 : share >= 2 ? 2 : 1;
  static constexpr int lines = int((every * LINES + TILES - 1) / TILES);
};
// Row tiles of M rows, R at a time; 1 where their number is not known: then the first reads for all.
template <int R, class M> constexpr int64_t so_tiles = so_known<M> < 0 ? 1 : (so_known<M> + R - 1) / R;

// One register tile of R rows and C vectors over kb steps.
template <int R, int C, int N, class T, int64_t TILES = 1, class TA, class TB, class TD, class Rows,
          class Part, class Ahead>
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
    using pace = so_pace<TILES, (C * N * int(sizeof(TB)) + 63) / 64>;
    if (k % pace::every == 0) ahead.template lines<pace::lines>();
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
// next: the b of the product after this one, where it follows in a loop.
template <int R, int C, int N, int KB, so_read HOW, class T, class M, class NN, class TA, class TB,
          class TD, class Rows>
SO_INLINE void so_mm(M m, NN n, int64_t k, const TA* a, int64_t sa, const TB* b, int64_t sb, TD* d,
                     Rows rows, bool load, const TB* next = nullptr) {
  int64_t k0 = 0;
  do {
    const int64_t kb = so_least(KB, k - k0);
    const TB* const bk = b + k0 * sb;
    const TA* const ak = a + k0 * sa;
    auto far = so_after(bk + KB * sb, sb, n, so_least(KB, k - k0 - kb), next, so_least(KB, k));
    so_no_ahead none;
    constexpr int64_t tiles = so_tiles<R, M>;
    so_col_tiles<C, N>(n, [&]<int CC>(int64_t j, auto part) SO_LAMBDA {
      if constexpr (HOW == so_read::panel) {
        alignas(64) T panel[KB * CC * N];
        for (int64_t q = 0; q < kb; ++q)
#pragma GCC unroll 16
          for (int c = 0; c < CC; ++c)
            so_store<N>(panel + (q * CC + c) * N, so_load<T, N>(bk + q * sb + j + c * N, part), so_full{});
        return so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
          if (so_known<M> >= 0 || i == 0)
            return so_mm_tile<RR, CC, N, T, tiles>(ak, sa, panel, CC * N, d + j, rows, i, kb, load, part, far);
          so_mm_tile<RR, CC, N, T>(ak, sa, panel, CC * N, d + j, rows, i, kb, load, part, none);
        });
      }
      so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
        if constexpr (HOW == so_read::ahead)
          if (so_known<M> >= 0 || i == 0)
            return so_mm_tile<RR, CC, N, T, tiles>(ak, sa, bk + j, sb, d + j, rows, i, kb, load, part, far);
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
// Two rows of b, interleaved within 128-bit lanes: pairs for the unit, in an order of columns that
// loading and storing the sums puts right.
struct so_pair { __m512i lo, hi; };
SO_INLINE so_pair so_pair_of(const so_bf16* b, int64_t sb, bool two, uint32_t mask) {
  const __m512i x = so_bf16_row(b, mask), y = two ? so_bf16_row(b + sb, mask) : _mm512_setzero_si512();
  return {_mm512_unpacklo_epi16(x, y), _mm512_unpackhi_epi16(x, y)};
}
// The same in the order of the columns, which takes a dearer instruction: for what is used many times.
struct so_zipper {
  __m512i lo, hi;
  SO_INLINE so_zipper() {
    alignas(64) uint16_t at[2][32];
    for (int j = 0; j < 32; ++j) at[0][j] = uint16_t(j / 2 + j % 2 * 32), at[1][j] = uint16_t(16 + at[0][j]);
    lo = _mm512_load_si512(at[0]), hi = _mm512_load_si512(at[1]);
  }
  SO_INLINE so_pair operator()(const so_bf16* b, int64_t sb, bool two, uint32_t mask) const {
    const __m512i x = so_bf16_row(b, mask), y = two ? so_bf16_row(b + sb, mask) : _mm512_setzero_si512();
    return {_mm512_permutex2var_epi16(x, lo, y), _mm512_permutex2var_epi16(x, hi, y)};
  }
};
// R rows x C blocks of 32 columns; b as it lies, or PAIRED: as pairs in order, C of them for each two steps.
template <int R, int C, bool PAIRED, int64_t TILES, class Rows, class Ahead>
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
    for (int c = 0; c < C; ++c) {
      __m512 &x = acc[r][2 * c], &y = acc[r][2 * c + 1];
      if constexpr (!PAIRED) so_pair_load(dr[r] + 32 * c, mask, load, x, y);
      else {
        x = load ? _mm512_maskz_loadu_ps(__mmask16(mask), dr[r] + 32 * c) : _mm512_setzero_ps();
        y = load ? _mm512_maskz_loadu_ps(__mmask16(mask >> 16), dr[r] + 32 * c + 16) : _mm512_setzero_ps();
      }
    }
  }
  using pace = so_pace<TILES, 2 * C>;  // lines of b for each two steps
  const auto step = [&](int64_t k, bool two) SO_LAMBDA {
    __m512bh lo[C], hi[C];
    if (k / 2 % pace::every == 0) ahead.template lines<pace::lines>();
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) {
      so_pair v;
      if constexpr (PAIRED)
        v = {_mm512_load_si512(b + (k * C + 2 * c) * 32), _mm512_load_si512(b + (k * C + 2 * c + 1) * 32)};
      else v = so_pair_of(b + k * sb + 32 * c, sb, two, mask);
      lo[c] = (__m512bh)v.lo, hi[c] = (__m512bh)v.hi;
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
    for (int c = 0; c < C; ++c) {
      const __m512 x = acc[r][2 * c], y = acc[r][2 * c + 1];
      if constexpr (!PAIRED) so_pair_store(dr[r] + 32 * c, mask, x, y);
      else {
        _mm512_mask_storeu_ps(dr[r] + 32 * c, __mmask16(mask), x);
        _mm512_mask_storeu_ps(dr[r] + 32 * c + 16, __mmask16(mask >> 16), y);
      }
    }
}
template <int R, int C, int KB, so_read HOW, class M, class NN, class Rows>
SO_INLINE void so_mm_bf16(M m, NN n, int64_t k, const so_bf16* a, const so_bf16* b, int64_t sb, float* d,
                          Rows rows, bool load, const so_bf16* next = nullptr) {
  constexpr int64_t tiles = so_tiles<R, M>;
  int64_t k0 = 0;
  do {
    const int64_t kb = so_least(KB, k - k0);
    const so_bf16 *const bk = b + k0 * sb, *const ak = a + k0;
    auto far = so_after(bk + KB * sb, sb, n, so_least(KB, k - k0 - kb), next, so_least(KB, k));
    so_no_ahead none;
    const auto columns = [&]<int CC>(int64_t j, uint32_t mask) SO_LAMBDA {
      if constexpr (HOW == so_read::panel) {
        alignas(64) so_bf16 panel[KB * CC * 32];
        const so_zipper zip;
        for (int64_t q = 0; q < kb; q += 2)
#pragma GCC unroll 16
          for (int c = 0; c < CC; ++c) {
            const so_pair v = zip(bk + q * sb + j + c * 32, sb, q + 1 < kb, mask);
            _mm512_store_si512(panel + (q * CC + 2 * c) * 32, v.lo);
            _mm512_store_si512(panel + (q * CC + 2 * c + 1) * 32, v.hi);
          }
        return so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
          if (so_known<M> >= 0 || i == 0)
            return so_pair_tile<RR, CC, true, tiles>(ak, panel, 0, d + j, rows, i, kb, load, mask, far);
          so_pair_tile<RR, CC, true, 1>(ak, panel, 0, d + j, rows, i, kb, load, mask, none);
        });
      }
      so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
        if constexpr (HOW == so_read::ahead)
          if (so_known<M> >= 0 || i == 0)
            return so_pair_tile<RR, CC, false, tiles>(ak, bk + j, sb, d + j, rows, i, kb, load, mask, far);
        so_pair_tile<RR, CC, false, 1>(ak, bk + j, sb, d + j, rows, i, kb, load, mask, none);
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
                          Rows rows, bool load, const so_bf16* next = nullptr) {
  so_mm<R, C, 8, KB, HOW, float>(m, n, k, a, 1, b, sb, d, rows, load, next);
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
