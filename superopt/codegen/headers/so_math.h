
// ==== so_math.h: scalar and vector functions =======================================================
// Errors are in units of last place of float; doubles go through libm, lane by lane. A scalar float
// goes through the vector code, so that a value does not depend on the lane it is computed in.

template <class V> concept so_fvec = so_vector<V> && std::is_same_v<so_elem<V>, float>;
template <class V> concept so_dvec = so_vector<V> && std::is_same_v<so_elem<V>, double>;
template <class T> concept so_number = std::is_arithmetic_v<T>;
template <class V> using so_ints = so_vec<int32_t, so_lanes_of<V>>;

template <so_vector V, class F> SO_INLINE V so_each(V x, F f) {
  V y;
  for (int l = 0; l < so_lanes_of<V>; ++l) y[l] = f(so_elem<V>(x[l]));
  return y;
}
template <so_vector V, class F> SO_INLINE V so_each(V a, V b, F f) {
  V y;
  for (int l = 0; l < so_lanes_of<V>; ++l) y[l] = f(so_elem<V>(a[l]), so_elem<V>(b[l]));
  return y;
}
template <so_vector V> SO_INLINE V so_all(so_elem<V> x) { return x - V{}; }
#define SO_VIA_VECTOR(name) \
  SO_INLINE float name(float x) { return name(so_splat<float, 4>(x))[0]; }
#define SO_VIA_LIBM(name, libm)                       \
  SO_INLINE double name(double x) { return libm(x); } \
  template <so_dvec V> SO_INLINE V name(V x) { return so_each(x, [](double y) { return libm(y); }); }

// -- selections: NaN goes through, as in torch.maximum ----------------------------------------------

template <so_number T> SO_INLINE T so_max(T a, T b) { return a != a ? a : (b != b || b > a ? b : a); }
template <so_number T> SO_INLINE T so_min(T a, T b) { return a != a ? a : (b != b || b < a ? b : a); }
template <so_vector V> SO_INLINE V so_max(V a, V b) {
  const V m = a > b ? a : b;  // b when either is NaN
  if constexpr (std::is_floating_point_v<so_elem<V>>) return a != a ? a : m;
  else return m;
}
template <so_vector V> SO_INLINE V so_min(V a, V b) {
  const V m = a < b ? a : b;
  if constexpr (std::is_floating_point_v<so_elem<V>>) return a != a ? a : m;
  else return m;
}
template <so_number T> SO_INLINE T so_where(bool c, T a, T b) { return c ? a : b; }
template <so_vector V, so_vector M> SO_INLINE V so_where(M m, V a, V b) {
  if constexpr (sizeof(so_elem<M>) == sizeof(so_elem<V>)) return m ? a : b;
  else return so_cvt<int64_t, so_lanes_of<V>>(m) ? a : b;
}
template <so_number T> SO_INLINE T so_abs(T x) {
  if constexpr (std::is_floating_point_v<T>) return std::fabs(x);
  else return x < 0 ? T(-x) : x;
}
template <so_vector V> SO_INLINE V so_abs(V x) {
  if constexpr (so_fvec<V>) return (V)((so_ints<V>)x & 0x7fffffff);
  else return so_each(x, [](auto y) { return so_abs(y); });
}
template <so_fvec V> SO_INLINE V so_signed_like(V x, V sign) {  // |x| with the sign of the other
  return (V)(((so_ints<V>)x & 0x7fffffff) | ((so_ints<V>)sign & int32_t(0x80000000)));
}

// -- roundings, roots and integers ------------------------------------------------------------------

SO_VIA_LIBM(so_floor, std::floor)
SO_VIA_LIBM(so_ceil, std::ceil)
SO_VIA_LIBM(so_sqrt, std::sqrt)
SO_INLINE float so_floor(float x) { return std::floor(x); }
SO_INLINE float so_ceil(float x) { return std::ceil(x); }
SO_INLINE float so_sqrt(float x) { return __builtin_sqrtf(x); }
template <so_fvec V> SO_INLINE V so_floor(V x) {
#if defined(__AVX512F__)
  if constexpr (so_lanes_of<V> == 16) return (V)_mm512_roundscale_ps((__m512)x, 9);
#endif
  return so_each(x, [](float y) { return std::floor(y); });
}
template <so_fvec V> SO_INLINE V so_ceil(V x) {
#if defined(__AVX512F__)
  if constexpr (so_lanes_of<V> == 16) return (V)_mm512_roundscale_ps((__m512)x, 10);
#endif
  return so_each(x, [](float y) { return std::ceil(y); });
}
template <so_fvec V> SO_INLINE V so_sqrt(V x) {
#if defined(__AVX512F__)
  if constexpr (so_lanes_of<V> == 16) return (V)_mm512_sqrt_ps((__m512)x);
#endif
#if defined(__AVX2__)
  if constexpr (so_lanes_of<V> == 8) return (V)_mm256_sqrt_ps((__m256)x);
#endif
  return so_each(x, [](float y) { return __builtin_sqrtf(y); });
}
template <so_number T> SO_INLINE T so_floordiv(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    // As torch.div(rounding_mode="floor"): the exact remainder decides, not the rounded quotient.
    const T r = std::fmod(a, b);
    T q = (a - r) / b;
    if (b == T(0)) return a / b;
    if (r != T(0) && ((b < T(0)) != (r < T(0)))) q -= T(1);
    if (q == T(0)) return std::copysign(T(0), a / b);
    const T f = std::floor(q);
    return q - f > T(0.5) ? f + T(1) : f;
  } else if constexpr (std::is_signed_v<T>) {
    if (b == 0) return T(0);  // PyTorch raises; a kernel must not trap
    if (b == T(-1)) return T(-a);
    return T(a / b - ((a % b != 0) & ((a < 0) != (b < 0))));
  } else {
    return b == 0 ? T(0) : T(a / b);
  }
}
template <so_number T> SO_INLINE T so_mod(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    const T r = std::fmod(a, b);
    return r != T(0) && ((r < T(0)) != (b < T(0))) ? r + b : r;
  } else if constexpr (std::is_signed_v<T>) {
    if (b == 0 || b == T(-1)) return T(0);
    const T r = T(a % b);
    return T(r + ((r != 0) & ((r < 0) != (b < 0))) * b);
  } else {
    return b == 0 ? T(0) : T(a % b);
  }
}
template <so_vector V> SO_INLINE V so_floordiv(V a, V b) {
  return so_each(a, b, [](auto x, auto y) { return so_floordiv(x, y); });
}
template <so_vector V> SO_INLINE V so_mod(V a, V b) {
  return so_each(a, b, [](auto x, auto y) { return so_mod(x, y); });
}

// An integer of 32 bits wrapped as the narrow type T is.
template <class T, so_vector V> SO_INLINE V so_wrap(V x) {
  constexpr int gone = 32 - 8 * int(sizeof(T));
  if constexpr (std::is_signed_v<T>) return (x << gone) >> gone;
  else return x & ((1 << (32 - gone)) - 1);
}
// Bits 4 to 7 as a number: put into the mantissa of 2**19 they count as units. What flip holds beside
// that exponent is inverted; less is subtracted.
template <so_vector V> SO_INLINE so_vec<float, so_lanes_of<V>> so_upper(V x, int32_t flip, float less) {
  using F = so_vec<float, so_lanes_of<V>>;
#if defined(__AVX512F__)
  if constexpr (so_lanes_of<V> == 16)
    return (F)_mm512_ternarylogic_epi32((__m512i)x, _mm512_set1_epi32(0xf0), _mm512_set1_epi32(flip), 0x6a) - less;
#endif
  return (F)((x & 0xf0) ^ flip) - less;
}
// table[i] for the lowest four bits of each i.
template <so_vector V> SO_INLINE so_vec<float, so_lanes_of<V>> so_table(V i, so_vec<float, 16> table) {
#if defined(__AVX512F__)
  if constexpr (so_lanes_of<V> == 16)
    return (so_vec<float, 16>)_mm512_permutexvar_ps((__m512i)i, (__m512)table);
#endif
  so_vec<float, so_lanes_of<V>> v;
  for (int l = 0; l < so_lanes_of<V>; ++l) v[l] = table[i[l] & 15];
  return v;
}

// -- exponentials -----------------------------------------------------------------------------------

template <so_fvec V> SO_INLINE V so_expm1_core(V r) {  // e^r - 1 for |r| <= ln(2) / 2
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * r) * r + r;
}
// x = n ln2 + r; adding a big number rounds to an integer. Valid for |x| < 2^20.
template <so_fvec V> SO_INLINE V so_exp_split(V x, V& r) {
  const V big = so_all<V>(12582912.0f);
  const V n = (x * 1.44269504088896341f + big) - big;
  r = so_fma(n, so_all<V>(-0.693145751953125f), x);
  r = so_fma(n, so_all<V>(-1.42860682030941723212e-6f), r);
  return n;
}
template <so_fvec V> SO_INLINE V so_exp_core(V r) {  // e^r for |r| <= ln(2) / 2
  V q = r * 1.3814539879e-3f + 8.3687451271e-3f;
  q = q * r + 4.1668390790e-2f;
  q = q * r + 1.6666520399e-1f;
  q = q * r + 4.9999993432e-1f;
  return (q * r + 1.0f) * r + 1.0f;
}
// exp: at most 1.5 ulp, denormal results included; +-inf and NaN as in IEEE.
template <so_fvec V> SO_INLINE V so_exp(V x) {
  V r;
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  if constexpr (so_lanes_of<V> == 16) {
    // Far out, where r is anything, n alone decides: it scales to 0 or inf, and carries NaN.
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps((__m512)x, _mm512_set1_ps(1.44269504088896341f)), 8);
    r = so_fma((V)n, so_all<V>(-0.693145751953125f), x);
    r = so_fma((V)n, so_all<V>(-1.42860682030941723212e-6f), r);
    r = (V)_mm512_range_ps((__m512)r, _mm512_set1_ps(0.5f), 2);  // the smaller absolute value, signed as r
    return (V)_mm512_scalef_ps((__m512)so_exp_core(r), n);
  }
#endif
  // Beyond these bounds the result is inf or 0 anyway; NaN fails both tests and is put back last.
  V c = x < 90.0f ? x : so_all<V>(90.0f);
  c = c > -105.0f ? c : so_all<V>(-105.0f);
  const V n = so_exp_split(c, r);
  const so_ints<V> k = __builtin_convertvector(n, so_ints<V>), h = k >> 1;
  // 2^n in two steps: it leaves the range of normal numbers at both ends.
  const V a = (V)((h + 127) << 23), b = (V)((k - h + 127) << 23);
  return x == x ? so_exp_core(r) * a * b : x;
}
SO_VIA_VECTOR(so_exp)
SO_VIA_LIBM(so_exp, std::exp)

// expm1: at most 2 ulp.
template <so_fvec V> SO_INLINE V so_expm1(V x) {
  V c = x < 88.8f ? x : so_all<V>(88.8f), r;
  c = c > -30.0f ? c : so_all<V>(-30.0f);
  const V n = so_exp_split(c, r);
  const so_ints<V> k = __builtin_convertvector(n, so_ints<V>);
  const V half = (V)((k + 126) << 23);  // 2^(n - 1), which does not overflow
  const V y = (so_expm1_core(r) * half + (half - 0.5f)) * 2.0f;
  return x == 0.0f ? x : x == x ? y : x;
}
SO_VIA_VECTOR(so_expm1)
SO_VIA_LIBM(so_expm1, std::expm1)

// log: at most 1.5 ulp; log of a negative number is NaN, of zero -inf.
template <so_fvec V> SO_INLINE V so_log(V x) {
  const so_ints<V> tiny = x < 1.17549435e-38f;
  const so_ints<V> u = (so_ints<V>)(tiny ? x * 8388608.0f : x);
  // m in [sqrt(1/2), sqrt(2)): the exponent moves where the mantissa passes sqrt(2).
  const so_ints<V> e = ((u - 0x3f3504f3) >> 23);
  const V m = (V)(u - (e << 23)), f = __builtin_convertvector(tiny ? e - 23 : e, V);
  const V r = m - 1.0f, z = r * r;
  V p = r * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  p = p * r * z;
  p = f * -2.12194440e-4f + p;
  V y = f * 0.693359375f + (r + (z * -0.5f + p));
  y = x == std::numeric_limits<float>::infinity() ? x : y;
  y = x == 0.0f ? so_all<V>(-std::numeric_limits<float>::infinity()) : y;
  return x >= 0.0f ? y : so_all<V>(std::numeric_limits<float>::quiet_NaN());
}
SO_VIA_VECTOR(so_log)
SO_VIA_LIBM(so_log, std::log)

// log1p: at most 3 ulp; the rounding of 1 + x is given back to first order.
template <so_fvec V> SO_INLINE V so_log1p(V x) {
  const V u = x + 1.0f, lost = x - (u - 1.0f);
  const V y = so_log(u) + lost / u;
  const so_ints<V> plain = (so_abs(x) < 1e-7f) | (x == std::numeric_limits<float>::infinity());
  return plain ? x : u == 0.0f ? so_log(u) : y;
}
SO_VIA_VECTOR(so_log1p)
SO_VIA_LIBM(so_log1p, std::log1p)

// tanh: at most 3 ulp.
template <so_fvec V> SO_INLINE V so_tanh(V x) {
  const V a = so_abs(x), z = x * x;
  V p = z * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const V small = p * z * x + x;
  const V large = 1.0f - 2.0f / (so_exp(a + a) + 1.0f);
  return a < 0.625f ? small : so_signed_like(large, x);
}
SO_VIA_VECTOR(so_tanh)
SO_VIA_LIBM(so_tanh, std::tanh)

// erf: at most 2 ulp.
template <so_fvec V> SO_INLINE V so_erf(V x) {
  const V t = so_abs(x), s = x * x;
  V r = t * -1.72853470e-5f + 3.83197126e-4f;
  r = r * s + (t * -3.88396438e-3f + 2.42546219e-2f);
  r = r * t - 1.06777877e-1f;
  r = r * t - 6.34846687e-1f;
  r = r * t - 1.28717512e-1f;
  r = r * t - t;
  const V large = so_signed_like(1.0f - so_exp(r), x);
  V q = s * -5.96761703e-4f + 4.99119423e-3f;
  q = q * s - 2.67681349e-2f;
  q = q * s + 1.12819925e-1f;
  q = q * s - 3.76125336e-1f;
  q = q * s + 1.28379166e-1f;
  const V small = q * x + x;
  // The polynomial of the exponent leaves its fit beyond 4, where erf is 1 in float.
  const V one = so_signed_like(so_all<V>(1.0f), x);
  return t > 4.0f ? one : t > 0.927734375f ? large : small;
}
SO_VIA_VECTOR(so_erf)
SO_VIA_LIBM(so_erf, std::erf)

// erfc: by libm, one number at a time; 1 - erf would lose all digits in the tail.
template <so_fvec V> SO_INLINE V so_erfc(V x) {
  return so_each(x, [](float y) { return std::erfc(y); });
}
SO_INLINE float so_erfc(float x) { return std::erfc(x); }
SO_VIA_LIBM(so_erfc, std::erfc)

// sin, cos: at most 2 ulp up to |x| = 30000 where products are fused, else and beyond by libm.
template <so_fvec V> SO_INLINE V so_sin_cos(V x, int quarter) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  const V big = so_all<V>(12582912.0f);
  const V n = (x * 0.636619772367581343f + big) - big;
  V r = so_fma(n, so_all<V>(-1.57079637050628662109375f), x);
  r = so_fma(n, so_all<V>(4.37113900018624283e-8f), r);
  r = so_fma(n, so_all<V>(1.71512449944e-15f), r);
  const so_ints<V> k = __builtin_convertvector(n, so_ints<V>) + quarter;
  const V z = r * r;
  V s = z * -1.9515295891e-4f + 8.3321608736e-3f;
  s = s * z - 1.6666654611e-1f;
  s = s * z * r + r;
  V c = z * 2.443315711809948e-5f - 1.388731625493765e-3f;
  c = c * z + 4.166664568298827e-2f;
  c = c * z * z + (z * -0.5f + 1.0f);
  V y = (k & 1) == 0 ? s : c;
  y = (V)((so_ints<V>)y ^ ((k & 2) << 30));
  const so_ints<V> far = !(so_abs(x) <= 30000.0f);
#else
  V y = x;
  const so_ints<V> far = so_ints<V>{} - 1;
#endif
  for (int l = 0; l < so_lanes_of<V>; ++l)
    if (far[l]) y[l] = quarter ? std::cos(float(x[l])) : std::sin(float(x[l]));
  return y;
}
template <so_fvec V> SO_INLINE V so_sin(V x) { return x == 0.0f ? x : so_sin_cos(x, 0); }
template <so_fvec V> SO_INLINE V so_cos(V x) { return so_sin_cos(x, 1); }
SO_VIA_VECTOR(so_sin)
SO_VIA_VECTOR(so_cos)
SO_VIA_LIBM(so_sin, std::sin)
SO_VIA_LIBM(so_cos, std::cos)

// pow: through libm.
template <so_number T> SO_INLINE T so_pow(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::pow(a, b);
  } else {
    if (b < 0) return T(a == 1 ? 1 : a == T(-1) ? (b % 2 ? -1 : 1) : 0);
    T y = 1;
    for (; b; b = T(b >> 1), a = T(a * a))
      if (b & 1) y = T(y * a);
    return y;
  }
}
template <so_vector V> SO_INLINE V so_pow(V a, V b) {
  return so_each(a, b, [](auto x, auto y) { return so_pow(x, y); });
}
