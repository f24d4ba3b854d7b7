// Vectors, masks, conversions and partial loads for generated CPU code (GCC/Clang vector extensions).
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#if defined(__AVX512F__) || defined(__AVX2__) || defined(__F16C__) || defined(__FMA__)
#include <immintrin.h>
#endif

#define SO_INLINE inline __attribute__((always_inline))
#define SO_LAMBDA __attribute__((always_inline))

struct so_bf16 { uint16_t bits; };
struct so_f16 { uint16_t bits; };

template <class T, int N> struct so_vec_ { typedef T type __attribute__((vector_size(sizeof(T) * N))); };
template <class T, int N> using so_vec = typename so_vec_<T, N>::type;
template <int N> using so_mask = so_vec<int32_t, N>;  // 0 or -1 per lane

// The element type of a vector, and the type itself for a scalar.
template <class V> struct so_elem_ { using type = std::remove_cvref_t<decltype(V()[0])>; };
template <class V> requires std::is_arithmetic_v<V> struct so_elem_<V> { using type = V; };
template <class V> using so_elem = typename so_elem_<V>::type;
template <class V> constexpr int so_lanes_of = int(sizeof(V) / sizeof(so_elem<V>));
template <class V> concept so_vector = !std::is_arithmetic_v<V> && requires(V v) { v[0]; };

template <class To, class From> SO_INLINE To so_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof(y));
  return y;
}

// How many lanes of a step exist: all of them, or the first n.
struct so_full { template <int N> constexpr int count() const { return N; } };
struct so_part { int n; template <int N> int count() const { return n; } };

// -- 16-bit floats, scalar: round to nearest even -------------------------------------------------

SO_INLINE float so_to_f32(so_bf16 x) { return so_bits<float>(uint32_t(x.bits) << 16); }
SO_INLINE so_bf16 so_to_bf16(float x) {
  const uint32_t u = so_bits<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t((u >> 16) | 0x40u)};
  return {uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
SO_INLINE float so_to_f32(so_f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, rest = uint32_t(x.bits & 0x7fffu) << 13;
  // The exponent bias moves by 112 by an exact product, which also normalizes denormals.
  float y = so_bits<float>(rest) * 0x1p112f;
  if ((x.bits & 0x7c00u) == 0x7c00u) y = so_bits<float>(0x7f800000u | rest);
  return so_bits<float>(so_bits<uint32_t>(y) | sign);
}
SO_INLINE so_f16 so_to_f16(float x) {
  const uint32_t u = so_bits<uint32_t>(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {uint16_t(sign | 0x7e00u | ((a >> 13) & 0x3ffu))};
  if (a >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};
  if (a < 0x38800000u) {  // denormal result: adding 0.5 rounds at the right bit
    const float y = so_bits<float>(a) + 0.5f;
    return {uint16_t(sign | (so_bits<uint32_t>(y) - 0x3f000000u))};
  }
  return {uint16_t(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13))};
}

// -- conversions ----------------------------------------------------------------------------------

template <class T, int N> SO_INLINE so_vec<T, N> so_splat(T x) { return x - so_vec<T, N>{}; }
template <int N> SO_INLINE so_mask<N> so_splat_mask(bool x) { return so_splat<int32_t, N>(-int32_t(x)); }
template <class T, int N> SO_INLINE so_vec<T, N> so_iota(T first) {
  so_vec<T, N> v;
  for (int l = 0; l < N; ++l) v[l] = T(l);
  return v + first;
}

template <class T, class S> SO_INLINE T so_cvt1(S x) {  // scalars, storage types included
  if constexpr (std::is_same_v<T, S>) return x;
  else if constexpr (std::is_same_v<T, so_bf16>) return so_to_bf16(float(x));
  else if constexpr (std::is_same_v<T, so_f16>) return so_to_f16(float(x));
  else if constexpr (std::is_same_v<S, so_bf16> || std::is_same_v<S, so_f16>) return so_cvt1<T>(so_to_f32(x));
  else if constexpr (std::is_same_v<T, bool>) return x != S(0);
  else if constexpr (std::is_integral_v<T> && std::is_floating_point_v<S>) {
    std::conditional_t<sizeof(T) < 4, int32_t, T> y(x);  // beyond the range, as PyTorch converts
    asm("" : "+r"(y));  // converted back, this is no truncation: infinities become finite
    return T(y);
  } else return T(x);
}
#if defined(__AVX512F__)
constexpr size_t so_width = 64;  // bytes of a register
#elif defined(__AVX2__)
constexpr size_t so_width = 32;
#else
constexpr size_t so_width = 16;
#endif
// Half K of a vector, and a vector of two halves; by way of memory, these would wait for the store.
template <int K, class V> SO_INLINE auto so_half(V v) {
  using H = so_vec<so_elem<V>, so_lanes_of<V> / 2>;
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return (H)_mm512_extractf64x4_pd((__m512d)v, K);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return (H)_mm256_extractf128_pd((__m256d)v, K);
#endif
  H h;
  std::memcpy(&h, reinterpret_cast<const char*>(&v) + K * sizeof(h), sizeof(h));
  return h;
}
template <class H> SO_INLINE auto so_both(H lo, H hi) {
  using V = so_vec<so_elem<H>, 2 * so_lanes_of<H>>;
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64)
    return (V)_mm512_insertf64x4(_mm512_castpd256_pd512((__m256d)lo), (__m256d)hi, 1);
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32)
    return (V)_mm256_insertf128_pd(_mm256_castpd128_pd256((__m128d)lo), (__m128d)hi, 1);
#endif
  V v;
  std::memcpy(&v, &lo, sizeof(lo));
  std::memcpy(reinterpret_cast<char*>(&v) + sizeof(lo), &hi, sizeof(hi));
  return v;
}
// A product that is rounded: the same number wherever it is read. Without this, compilers fuse it into
// one of the additions that read it, and x * y - max(x * y) is not 0 at the maximum.
template <class V> SO_INLINE V so_rounded(V x) {
  if constexpr (!std::is_floating_point_v<so_elem<V>>) return x;
  else if constexpr (sizeof(V) > so_width) return so_both(so_rounded(so_half<0>(x)), so_rounded(so_half<1>(x)));
  else {
#if defined(__AVX512F__)
    asm("" : "+v"(x));
#elif defined(__x86_64__)
    asm("" : "+x"(x));
#elif defined(__aarch64__)
    asm("" : "+w"(x));
#else
    asm("" : "+m"(x));
#endif
    return x;
  }
}
template <class A, class B> SO_INLINE auto so_mul(A a, B b) { return so_rounded(a * b); }
// a * b + c, rounded once where the processor can do that in one step.
template <class V> SO_INLINE V so_fma(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && std::is_same_v<so_elem<V>, float>)
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
#if defined(__FMA__)
  if constexpr (sizeof(V) == 32 && std::is_same_v<so_elem<V>, float>)
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  if constexpr (sizeof(V) == 16 && std::is_same_v<so_elem<V>, float>)
    return (V)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#endif
  return a * b + c;
}
// The part of a step that falls on half K of its lanes.
template <int K, int N> SO_INLINE so_full so_half_of(so_full) { return {}; }
template <int K, int N> SO_INLINE so_part so_half_of(so_part p) {
  const int n = p.n < N / 2 ? p.n : N / 2;
  return {K == 0 ? n : p.n - n};
}
// Narrow integers as 32-bit ones, in one step.
template <class V> SO_INLINE auto so_widen(V x) {
  constexpr int N = so_lanes_of<V>;
  [[maybe_unused]] constexpr bool sign = std::is_signed_v<so_elem<V>>;
#if defined(__AVX512F__)
  if constexpr (N == 16 && sizeof(so_elem<V>) == 1)
    return (so_mask<N>)(sign ? _mm512_cvtepi8_epi32((__m128i)x) : _mm512_cvtepu8_epi32((__m128i)x));
  else if constexpr (N == 16 && sizeof(so_elem<V>) == 2)
    return (so_mask<N>)(sign ? _mm512_cvtepi16_epi32((__m256i)x) : _mm512_cvtepu16_epi32((__m256i)x));
  else
#endif
#if defined(__AVX2__)
  if constexpr (N == 8 && sizeof(so_elem<V>) == 1) {
    const __m128i low = _mm_cvtsi64_si128(so_bits<int64_t>(x));
    return (so_mask<N>)(sign ? _mm256_cvtepi8_epi32(low) : _mm256_cvtepu8_epi32(low));
  } else if constexpr (N == 8 && sizeof(so_elem<V>) == 2)
    return (so_mask<N>)(sign ? _mm256_cvtepi16_epi32((__m128i)x) : _mm256_cvtepu16_epi32((__m128i)x));
  else
#endif
  return __builtin_convertvector(x, so_mask<N>);
}
template <class T, int N, class V> SO_INLINE so_vec<T, N> so_cvt(V x) {
  if constexpr (std::is_same_v<so_elem<V>, T>) return x;
  else if constexpr (std::is_integral_v<so_elem<V>> && sizeof(so_elem<V>) < 4 && sizeof(T) >= 4)
    return so_cvt<T, N>(so_widen(x));
#if defined(__AVX512F__)
  else if constexpr (N == 8 && std::is_same_v<T, double> && std::is_same_v<so_elem<V>, float>)
    return (so_vec<T, N>)_mm512_cvtps_pd((__m256)x);
  else if constexpr (N == 8 && std::is_same_v<T, float> && std::is_same_v<so_elem<V>, double>)
    return (so_vec<T, N>)_mm512_cvtpd_ps((__m512d)x);
#endif
#if defined(__AVX__)
  else if constexpr (N == 4 && std::is_same_v<T, double> && std::is_same_v<so_elem<V>, float>)
    return (so_vec<T, N>)_mm256_cvtps_pd((__m128)x);
  else if constexpr (N == 4 && std::is_same_v<T, float> && std::is_same_v<so_elem<V>, double>)
    return (so_vec<T, N>)_mm256_cvtpd_ps((__m256d)x);
#endif
  else if constexpr (N > 2 && (sizeof(so_vec<T, N>) > so_width || sizeof(V) > so_width))
    return so_both(so_cvt<T, N / 2>(so_half<0>(x)), so_cvt<T, N / 2>(so_half<1>(x)));
  else if constexpr (std::is_integral_v<T> && sizeof(T) < 4 && std::is_floating_point_v<so_elem<V>>)
    return __builtin_convertvector(__builtin_convertvector(x, so_vec<int32_t, N>), so_vec<T, N>);
#if !defined(__AVX512DQ__)
  else if constexpr (std::is_integral_v<T> && sizeof(T) == 8 && std::is_floating_point_v<so_elem<V>>) {
    auto v = __builtin_convertvector(x, so_vec<T, N>);
    asm("" : "+m"(v));  // back to floats the compiler would take it for a truncation, of infinities too
    return v;
  }
#endif
  else return __builtin_convertvector(x, so_vec<T, N>);
}
template <int N, class V> SO_INLINE so_mask<N> so_to_mask(V x) {  // comparison results of any width
  return so_cvt<int32_t, N>(x);
}
template <class T, int N> SO_INLINE so_vec<T, N> so_from_mask(so_mask<N> m) {  // true is 1
  return so_cvt<T, N>(-m);
}

// -- loads: N elements in storage type S, as lanes of type T --------------------------------------

template <class S, int N, class P> SO_INLINE so_vec<S, N> so_raw(const S* p, P part) {
  so_vec<S, N> v;
  if constexpr (std::is_same_v<P, so_full>) {
    std::memcpy(&v, p, sizeof(v));
  } else {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    const uint64_t m = (uint64_t(1) << part.n) - 1;
    if constexpr (sizeof(v) == 64 && sizeof(S) == 4)
      return (so_vec<S, N>)_mm512_maskz_loadu_epi32(__mmask16(m), p);
    else if constexpr (sizeof(v) == 64 && sizeof(S) == 8)
      return (so_vec<S, N>)_mm512_maskz_loadu_epi64(__mmask8(m), p);
    else if constexpr (sizeof(v) == 32 && sizeof(S) == 4)
      return (so_vec<S, N>)_mm256_maskz_loadu_epi32(__mmask8(m), p);
    else if constexpr (sizeof(v) == 32 && sizeof(S) == 2)
      return (so_vec<S, N>)_mm256_maskz_loadu_epi16(__mmask16(m), p);
    else if constexpr (sizeof(v) == 16 && sizeof(S) == 2)
      return (so_vec<S, N>)_mm_maskz_loadu_epi16(__mmask8(m), p);
    else
#endif
    {
      v = so_vec<S, N>{};
      for (int l = 0; l < N && l < part.n; ++l) v[l] = p[l];
    }
  }
  return v;
}

template <class T, int N, class S, class P> SO_INLINE so_vec<T, N> so_load(const S* p, P part) {
  if constexpr (sizeof(S) * N > so_width && N > 2)  // half by half, as in all that follows
    return so_both(so_load<T, N / 2>(p, so_half_of<0, N>(part)),
                   so_load<T, N / 2>(p + N / 2, so_half_of<1, N>(part)));
  if constexpr (std::is_same_v<S, so_bf16>) {
    const auto u = so_raw<uint16_t, N>(reinterpret_cast<const uint16_t*>(p), part);
    const auto w = __builtin_convertvector(u, so_vec<uint32_t, N>) << 16;
    return so_cvt<T, N>((so_vec<float, N>)w);
  } else if constexpr (std::is_same_v<S, so_f16>) {
    const auto u = so_raw<uint16_t, N>(reinterpret_cast<const uint16_t*>(p), part);
#if defined(__AVX512F__)
    if constexpr (N == 16) return so_cvt<T, N>((so_vec<float, N>)_mm512_cvtph_ps((__m256i)u));
#endif
#if defined(__F16C__)
    if constexpr (N == 8) return so_cvt<T, N>((so_vec<float, N>)_mm256_cvtph_ps((__m128i)u));
#endif
    so_vec<float, N> v;
    for (int l = 0; l < N; ++l) v[l] = so_to_f32(so_f16{u[l]});
    return so_cvt<T, N>(v);
  } else if constexpr (std::is_same_v<S, bool>) {
    return so_cvt<T, N>(so_raw<uint8_t, N>(reinterpret_cast<const uint8_t*>(p), part));
  } else {
    return so_cvt<T, N>(so_raw<S, N>(p, part));
  }
}
template <int N, class P> SO_INLINE so_mask<N> so_load_mask(const bool* p, P part) {
  return -so_load<int32_t, N>(p, part);
}
// -- stores: lanes into storage type S ------------------------------------------------------------

template <class S, int N, class P> SO_INLINE void so_put(S* p, so_vec<S, N> v, P part) {
  if constexpr (sizeof(v) > so_width && N > 2) {
    so_put<S, N / 2>(p, so_half<0>(v), so_half_of<0, N>(part));
    return so_put<S, N / 2>(p + N / 2, so_half<1>(v), so_half_of<1, N>(part));
  }
  if constexpr (std::is_same_v<P, so_full>) {
    std::memcpy(p, &v, sizeof(v));
  } else {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
    const uint64_t m = (uint64_t(1) << part.n) - 1;
    if constexpr (sizeof(v) == 64 && sizeof(S) == 4)
      return _mm512_mask_storeu_epi32(p, __mmask16(m), (__m512i)v);
    else if constexpr (sizeof(v) == 64 && sizeof(S) == 8)
      return _mm512_mask_storeu_epi64(p, __mmask8(m), (__m512i)v);
    else if constexpr (sizeof(v) == 32 && sizeof(S) == 4)
      return _mm256_mask_storeu_epi32(p, __mmask8(m), (__m256i)v);
    else if constexpr (sizeof(v) == 32 && sizeof(S) == 2)
      return _mm256_mask_storeu_epi16(p, __mmask16(m), (__m256i)v);
    else if constexpr (sizeof(v) == 16 && sizeof(S) == 2)
      return _mm_mask_storeu_epi16(p, __mmask8(m), (__m128i)v);
    else
#endif
    for (int l = 0; l < N && l < part.n; ++l) p[l] = v[l];
  }
}

template <int N> SO_INLINE so_vec<uint16_t, N> so_narrow_bf16(so_vec<float, N> x) {
  const auto u = (so_vec<uint32_t, N>)x;
#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
  if constexpr (N == 16)  // the instruction takes denormals for zero
    if (!_mm512_fpclass_ps_mask((__m512)x, 0x20))
      return (so_vec<uint16_t, N>)_mm512_cvtneps_pbh((__m512)x);
#endif
  const auto even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
  const auto r = (x != x) ? nan : even;
  return __builtin_convertvector(r, so_vec<uint16_t, N>);
}
template <int N> SO_INLINE so_vec<uint16_t, N> so_narrow_f16(so_vec<float, N> x) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return (so_vec<uint16_t, N>)_mm512_cvtps_ph((__m512)x, 0);
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return (so_vec<uint16_t, N>)_mm256_cvtps_ph((__m256)x, 0);
#endif
  so_vec<uint16_t, N> v;
  for (int l = 0; l < N; ++l) v[l] = so_to_f16(x[l]).bits;
  return v;
}
template <int N, class S, class V, class P> SO_INLINE void so_store(S* p, V v, P part) {
  if constexpr (std::is_same_v<S, so_bf16>)
    so_put<uint16_t, N>(reinterpret_cast<uint16_t*>(p), so_narrow_bf16<N>(so_cvt<float, N>(v)), part);
  else if constexpr (std::is_same_v<S, so_f16>)
    so_put<uint16_t, N>(reinterpret_cast<uint16_t*>(p), so_narrow_f16<N>(so_cvt<float, N>(v)), part);
  else
    so_put<S, N>(p, so_cvt<S, N>(v), part);
}
template <int N, class P> SO_INLINE void so_store_mask(bool* p, so_mask<N> v, P part) {
  so_put<uint8_t, N>(reinterpret_cast<uint8_t*>(p), so_cvt<uint8_t, N>(-v), part);
}
template <int N, class S, class V, class P>
SO_INLINE void so_scatter(S* p, int64_t stride, V v, P part) {
  for (int l = 0; l < part.template count<N>(); ++l) p[l * stride] = so_cvt1<S>(v[l]);
}
template <int N, class P> SO_INLINE void so_scatter_mask(bool* p, int64_t stride, so_mask<N> v, P part) {
  for (int l = 0; l < part.template count<N>(); ++l) p[l * stride] = v[l] != 0;
}

// -- rounding through a 16-bit type, staying in float ----------------------------------------------

template <class S> SO_INLINE float so_round_to(float x) { return so_to_f32(so_cvt1<S>(x)); }
template <class S, so_vector V> SO_INLINE V so_round_to(V x) {
  constexpr int N = so_lanes_of<V>;
  S tmp[N];
  so_store<N>(tmp, x, so_full{});
  return so_load<float, N>(tmp, so_full{});
}

// -- horizontal reductions ------------------------------------------------------------------------

template <so_vector V> SO_INLINE V so_keep(V v, V other, int n) {  // the first n lanes of v
  constexpr int N = so_lanes_of<V>;
  constexpr size_t bytes = sizeof(so_elem<V>);  // a mask's lanes have the width of what they choose
  using I = std::conditional_t<bytes == 8, int64_t,
                               std::conditional_t<bytes == 4, int32_t,
                                                  std::conditional_t<bytes == 2, int16_t, int8_t>>>;
  return so_iota<I, N>(0) < I(n) ? v : other;
}
template <class F, so_vector V> SO_INLINE auto so_fold(V v, F f) {
  constexpr int N = so_lanes_of<V>;
  using T = so_elem<V>;
  if constexpr (N == 2) {
    return f(T(v[0]), T(v[1]));
  } else {
    return so_fold(f(so_half<0>(v), so_half<1>(v)), f);
  }
}

SO_INLINE int64_t so_least(int64_t a, int64_t b) { return a < b ? a : b; }

// A run-time index, clamped into its axis; that it was outside is part of the task's status.
[[maybe_unused]] static thread_local int so_wild = 0;
SO_INLINE int64_t so_index(int64_t i, int64_t n) {
  if (__builtin_expect(uint64_t(i) < uint64_t(n), 1)) return i;
  so_wild = 2;
  return i < 0 ? 0 : n - 1;
}

// -- loops ------------------------------------------------------------------------------------------

// f(i, part) for i = 0, N, 2N, ... over n elements; the last step may be partial.
template <int N, class F> SO_INLINE void so_steps(int64_t n, F f) {
  int64_t i = 0;
  for (; i + N <= n; i += N) f(i, so_full{});
  if (i < n) f(i, so_part{int(n - i)});
}
