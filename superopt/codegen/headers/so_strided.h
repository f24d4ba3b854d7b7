
// ==== so_strided.h: lanes that do not lie side by side ==============================================

// Every other element: what lies between is read along, but nothing beyond the last one.
template <int N> SO_INLINE so_vec<float, N> so_every_other(const so_bf16* p) {
  const auto* const u = reinterpret_cast<const uint16_t*>(p);
  so_vec<uint16_t, 2 * N> v;
#if defined(__AVX512F__) && defined(__AVX512BW__)
  if constexpr (N == 16) v = (so_vec<uint16_t, 2 * N>)_mm512_maskz_loadu_epi16(0x7fffffffu, u);
  else
#endif
  {
    v = so_vec<uint16_t, 2 * N>{};
    std::memcpy(&v, u, sizeof(v) - 2);
  }
  return (so_vec<float, N>)((so_vec<uint32_t, N>)v << 16);
}
template <int N> SO_INLINE so_vec<float, N> so_every_other(const float* p) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return (so_vec<float, N>)_mm512_permutex2var_ps(_mm512_loadu_ps(p), at,
                                                    _mm512_maskz_loadu_ps(0x7fff, p + 16));
  }
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) {
    const __m256i most = _mm256_setr_epi32(-1, -1, -1, -1, -1, -1, -1, 0);
    const __m256 x = _mm256_shuffle_ps(_mm256_loadu_ps(p), _mm256_maskload_ps(p + 8, most), 0x88);
    return (so_vec<float, N>)_mm256_permute4x64_pd((__m256d)x, 0xd8);
  }
#endif
  so_vec<float, N> v;
  for (int l = 0; l < N; ++l) v[l] = p[2 * l];
  return v;
}
template <class T, int N, class S, class P>
SO_INLINE so_vec<T, N> so_gather(const S* p, int64_t stride, P part) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  if constexpr (std::is_same_v<P, so_full> && std::is_same_v<T, float> &&
                (std::is_same_v<S, float> || std::is_same_v<S, so_bf16>) && 4 * N <= int(so_width))
    if (__builtin_constant_p(stride) && stride == 2) return so_every_other<N>(p);
#endif
  so_vec<T, N> v{};
  for (int l = 0; l < part.template count<N>(); ++l) v[l] = so_cvt1<T>(p[l * stride]);
  return v;
}
template <int N, class P> SO_INLINE so_mask<N> so_gather_mask(const bool* p, int64_t stride, P part) {
  so_mask<N> v{};
  for (int l = 0; l < part.template count<N>(); ++l) v[l] = -int32_t(p[l * stride]);
  return v;
}
// Lanes whose value only a scalar function of the lane number gives (run-time indices, divisions).
template <class T, int N, class P, class F> SO_INLINE so_vec<T, N> so_lanes(P part, F f) {
  so_vec<T, N> v{};
  for (int l = 0; l < part.template count<N>(); ++l) v[l] = f(int64_t(l));
  return v;
}
