
// ==== so_pack.h: contraction with a factor that was copied into panels =============================
// A panel holds W = C * N neighbouring columns, k by k, in groups of G steps of k: element (k, j) lies at
// (k / G) * W * G + j * G + k % G. What a tile reads is one run of memory; the steps beyond the last of k
// and the columns beyond the last of n are zeros.

// Reads the next block ahead, spread evenly over all that is done with this one: into the second cache,
// since the first holds this block; for one or two rows, which use it once and at once, into the first.
template <int R> struct so_next {
  const char* p;
  int64_t inc;
  template <int LINES> SO_INLINE void step() {
    constexpr int near = R <= 2 ? 3 : 2;
    __builtin_prefetch(p, 0, near);
    if constexpr (LINES > 1)
      if (inc > 64) __builtin_prefetch(p + 64, 0, near);
    p += inc;
  }
};

template <int N> SO_INLINE so_part so_columns(int64_t n) {
  return {int(n < 0 ? 0 : n > N ? N : n)};
}

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
constexpr bool so_multiplies_pairs = true;
SO_INLINE so_vec<float, 16> so_pair_add(so_vec<float, 16> sum, __m512i x, __m512i y) {
  return (so_vec<float, 16>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
}
#else
constexpr bool so_multiplies_pairs = false;
#endif

// One register tile of R rows and a panel, over kb steps.
template <int R, int C, int N, int G, class T, class TA, class TB, class TD, class Rows, class Next>
SO_INLINE void so_panel_tile(const TA* a, int64_t sa, const TB* b, TD* d, Rows rows, int64_t i,
                             int64_t n, int64_t kb, bool load, Next next) {
  using V = so_vec<T, N>;
  constexpr int lines = (C * N * G * int(sizeof(TB)) + 63) / 64;
  V acc[R][C];
  const TA* ar[R];
  TD* dr[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const so_row at = rows(i + r);
    ar[r] = a + at.a, dr[r] = d + at.d;
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c) acc[r][c] = V{};
  }
  if constexpr (G == 1) {
    for (int64_t k = 0; k < kb; ++k, b += C * N) {
      V bv[C];
      next.template step<lines>();
#pragma GCC unroll 16
      for (int c = 0; c < C; ++c) bv[c] = so_load<T, N>(b + c * N, so_full{});
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V av = so_splat<T, N>(so_cvt1<T>(ar[r][k * sa]));
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) acc[r][c] += av * bv[c];
      }
    }
  } else {
    static_assert(G == 2 && std::is_same_v<TB, so_bf16> && std::is_same_v<T, float>);
    const auto step = [&](int64_t k, auto two) SO_LAMBDA {
      next.template step<lines>();
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
      if constexpr (std::is_same_v<TA, so_bf16> && N == 16) {
        __m512i bv[C];
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) bv[c] = _mm512_loadu_si512(b + c * N * 2);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          uint32_t pair = 0;
          std::memcpy(&pair, ar[r] + k, two() ? 4 : 2);
          const __m512i av = _mm512_set1_epi32(int(pair));
#pragma GCC unroll 16
          for (int c = 0; c < C; ++c) acc[r][c] = so_pair_add(acc[r][c], bv[c], av);
        }
      } else
#endif
      {
        V even[C], odd[C];
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) {
          const auto x = so_raw<uint32_t, N>(reinterpret_cast<const uint32_t*>(b) + c * N, so_full{});
          even[c] = (V)(x << 16), odd[c] = (V)(x & 0xffff0000u);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const V u = so_splat<T, N>(so_cvt1<T>(ar[r][k * sa]));
#pragma GCC unroll 16
          for (int c = 0; c < C; ++c) acc[r][c] += u * even[c];
          if constexpr (two()) {
            const V v = so_splat<T, N>(so_cvt1<T>(ar[r][(k + 1) * sa]));
#pragma GCC unroll 16
            for (int c = 0; c < C; ++c) acc[r][c] += v * odd[c];
          }
        }
      }
      b += C * N * 2;
    };
    int64_t k = 0;
    for (; k + 2 <= kb; k += 2) step(k, std::true_type{});
    if (k < kb) step(k, std::false_type{});
  }
  const auto put = [&](int r, int c, auto part) SO_LAMBDA {
    TD* const at = dr[r] + c * N;
    // The old sum joins last: short chains of additions lose less than one long chain.
    so_store<N>(at, load ? so_load<T, N>(at, part) + acc[r][c] : acc[r][c], part);
  };
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < C; ++c)
      if (n >= C * N) put(r, c, so_full{});
      else put(r, c, so_columns<N>(n - c * N));
}

// The whole product, KB steps of k at a time, so that a block of a panel stays near while all rows use it.
// b is the first panel at the first step of k, ``panel`` the elements between panels.
template <int R, int C, int N, int G, int KB, class T, class M, class TA, class TB, class TD, class Rows>
SO_INLINE void so_mm_packed(M m, int64_t n, int64_t k, const TA* a, int64_t sa, const TB* b, int64_t panel,
                            TD* d, Rows rows, bool load) {
  static_assert(KB % G == 0);
  const int64_t tiles = (m + R - 1) / R, inc = C * N * G * int64_t(sizeof(TB)) / (tiles < 1 ? 1 : tiles);
  for (int64_t j = 0; j < n; j += C * N) {
    const TB* const bj = b + j / (C * N) * panel;
    int64_t k0 = 0;
    do {
      const int64_t kb = so_least(KB, k - k0);
      const TB* const at = bj + k0 * (C * N);
      const TB* const then = k0 + KB < k ? at + KB * (C * N) : j + C * N < n ? bj + panel : b + k * (C * N);
      so_row_tiles<R>(m, [&]<int RR>(int64_t i) SO_LAMBDA {
        const so_next<R> next{reinterpret_cast<const char*>(then) + i / R * inc * (kb / G), inc};
        so_panel_tile<RR, C, N, G, T>(a + k0 * sa, sa, at, d + j, rows, i, n - j, kb, load || k0 > 0, next);
      });
      k0 += KB;
    } while (k0 < k);
  }
}

// Copies one block of k x n elements into panels of W columns, in groups of G steps of k; what is beyond is
// zero. Whole panels: the caller gives the first of them.
template <int W, int G, class TB>
SO_INLINE void so_pack_panels(int64_t n, int64_t k, const TB* s, int64_t sk, int64_t sn, TB* p, int64_t panel) {
  for (int64_t j = 0; j < n; j += W, p += panel) {
    const int64_t w = so_least(W, n - j);
    const int64_t whole = (k + G - 1) / G;
    for (int64_t q = 0; q < whole; ++q) {
      TB* const to = p + q * (W * G);
      if (w < W || (q + 1) * G > k) std::memset(to, 0, sizeof(TB) * W * G);
      for (int64_t g = 0; g < so_least(G, k - q * G); ++g) {
        const TB* const from = s + (q * G + g) * sk + j * sn;
        for (int64_t i = 0; i < w; ++i) to[i * G + g] = from[i * sn];
      }
    }
  }
}

// Whether one run of a panel, the W columns of a group of steps, is still what the source holds.
template <int W, int G, class TB>
SO_INLINE bool so_same_run(int64_t n, int64_t k, const TB* s, int64_t sk, int64_t sn, const TB* p) {
  int differ = 0;
  for (int64_t g = 0; g < so_least(G, k); ++g)
    for (int64_t i = 0; i < so_least(W, n); ++i)
      differ |= std::memcmp(s + g * sk + i * sn, p + i * G + g, sizeof(TB));
  return differ == 0;
}
SO_INLINE uint64_t so_hash(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
// Compares runs of a packed copy with its source: SAMPLES anywhere, the first and the last one, and one
// part in SHARE, which depends on the turn, so that SHARE turns compare all. ``outer(i)`` gives the offsets of
// the i-th place of the axes outside of the panels.
template <int W, int G, int SAMPLES, int SHARE, class TB, class Outer>
static bool so_same_panels(int64_t outside, int64_t n, int64_t k, const TB* s, int64_t sk, int64_t sn,
                           const TB* p, int64_t turn, Outer outer) {
  const int64_t groups = (k + G - 1) / G, panels = (n + W - 1) / W, runs = outside * panels * groups;
  const bool rows = sk > sn;  // neighbours follow each other in the source, where pages may be small
  const auto same = [&](int64_t run) SO_LAMBDA {
    const int64_t q = rows ? run / panels % groups : run % groups;
    const int64_t j = rows ? run % panels : run / groups % panels;
    const so_row at = outer(run / groups / panels);
    return so_same_run<W, G>(n - j * W, k - q * G, s + at.a + q * G * sk + j * W * sn, sk, sn,
                             p + at.d + (j * groups + q) * (W * G));
  };
  bool all = same(0) && same(runs - 1);
  for (int i = 0; i < SAMPLES; ++i) all &= same(int64_t(so_hash(uint64_t(turn) * SAMPLES + uint64_t(i)) % uint64_t(runs)));
  const int64_t part = (runs + SHARE - 1) / SHARE, first = turn % SHARE * part;
  for (int64_t run = first; run < so_least(first + part, runs); ++run) all &= same(run);
  return all;
}
