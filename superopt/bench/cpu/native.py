"""What the machine can do at best: streaming reads, multiply-adds, exponentials, an empty region.

Each is a loop of C++ over vectors of the compiler's own, as generated kernels are, on the threads of
OpenMP; none calls a library.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import torch

SOURCE = r"""
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {
using Clock = std::chrono::steady_clock;
using Floats = float __attribute__((vector_size(64), may_alias, aligned(64)));
using Ints = int32_t __attribute__((vector_size(64)));
volatile float sink;

double since(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}

float total(const Floats& v) {
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += v[i];
  return sum;
}

// Four streams a thread, fetched 1 KiB ahead, read more than one stream or eight do.
float read(const float* data, int64_t count) {
  constexpr int streams = 4;
  const int64_t each = count / streams / 32 * 32;
  Floats sums[2 * streams] = {};
  for (int64_t k = 0; k < each; k += 32)
    for (int s = 0; s < streams; ++s) {
      const float* at = data + s * each + k;
      __builtin_prefetch(at + 256);
      __builtin_prefetch(at + 272);
      sums[2 * s] += *reinterpret_cast<const Floats*>(at);
      sums[2 * s + 1] += *reinterpret_cast<const Floats*>(at + 16);
    }
  Floats sum{};
  for (const Floats& s : sums) sum += s;
  return total(sum);
}

constexpr int chains = 16;

float multiply_add(int64_t steps) {
  Floats sums[chains], a{}, b{};
  a += 0.999f, b += 0.001f;
  for (int c = 0; c < chains; ++c) sums[c] = b * static_cast<float>(c);
  for (int64_t n = 0; n < steps; ++n)
    for (int c = 0; c < chains; ++c) sums[c] = sums[c] * a + b;
  Floats sum{};
  for (int c = 0; c < chains; ++c) sum += sums[c];
  return total(sum);
}

#if defined(__AVX512BF16__)
float dot_pairs(int64_t steps) {
  __m512 sums[chains];
  __m512bh a, b;
  std::memset(&a, 0x3c, sizeof a), std::memset(&b, 0x3c, sizeof b);
  for (int c = 0; c < chains; ++c) sums[c] = _mm512_set1_ps(static_cast<float>(c));
  for (int64_t n = 0; n < steps; ++n)
#pragma GCC unroll 16
    for (int c = 0; c < chains; ++c) sums[c] = _mm512_dpbf16_ps(sums[c], a, b);
  Floats sum{};
  for (int c = 0; c < chains; ++c) sum += reinterpret_cast<Floats&>(sums[c]);
  return total(sum);
}
#endif

// exp to about an ulp and a half: x = n ln 2 + r, a polynomial of degree six in r, 2^n by the exponent.
inline Floats exponential(Floats x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Floats n = (x * 1.44269504f + magic) - magic;
  const Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  Floats y = r * 1.39e-3f + 8.36e-3f;
  y = y * r + 4.1666e-2f;
  y = y * r + 1.66665e-1f;
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &power, sizeof scale);
  return y * scale;
}

float exponentials(const float* data, int64_t count, int64_t rounds) {
  Floats sum{};
  for (int64_t n = 0; n < rounds; ++n) {
    for (int64_t k = 0; k < count; k += 16)
      sum += exponential(*reinterpret_cast<const Floats*>(data + k));
    asm volatile("" : : "r"(data) : "memory");  // each round is computed
  }
  return total(sum);
}

template <class Body>
double on_threads(int threads, const Body& body) {
  const auto begun = Clock::now();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) sink = body(t);
  return since(begun);
}
}  // namespace

extern "C" {
// Seconds of one pass over the buffer, the threads side by side.
double probe_read(const float* data, int64_t count, int threads) {
  const int64_t each = count / threads / 32 * 32;
  return on_threads(threads, [&](int t) { return read(data + t * each, each); });
}

// Operations per second: a multiply and an add count as two.
double probe_peak(int64_t steps, int threads) {
  const double s = on_threads(threads, [&](int) { return multiply_add(steps); });
  return 2.0 * 16 * chains * steps * threads / s;
}

double probe_peak_bf16(int64_t steps, int threads) {
#if defined(__AVX512BF16__)
  const double s = on_threads(threads, [&](int) { return dot_pairs(steps); });
  return 4.0 * 16 * chains * steps * threads / s;
#else
  return probe_peak(steps, threads);
#endif
}

// Seconds of one exponential when all threads compute them side by side.
double probe_exp(const float* data, int64_t count, int64_t rounds, int threads) {
  const double s = on_threads(threads, [&](int) { return exponentials(data, count, rounds); });
  return s / (static_cast<double>(count) * rounds * threads);
}

void probe_exp_values(float* data, int64_t count) {
  for (int64_t k = 0; k < count; k += 16) {
    Floats* at = reinterpret_cast<Floats*>(data + k);
    *at = exponential(*at);
  }
}

int probe_region(int threads) {
  int seen = 0;
#pragma omp parallel num_threads(threads)
  {
#pragma omp masked
    seen = 1;
  }
  return seen;
}

// Threads of its own, which are gone afterwards: no pool is left spinning or awake.
void evict(char* data, int64_t count, int threads) {
  std::vector<std::thread> all;
  const int64_t each = count / threads;
  for (int t = 0; t < threads; ++t)
    all.emplace_back([=] {
      for (int64_t k = t * each; k < (t + 1) * each; k += 64) ++data[k];
    });
  for (std::thread& one : all) one.join();
}
}
"""

DRAM_BYTES = 256 << 20
_L1_FLOATS = 2048
_STEPS = 100_000


def build() -> Path:
    """The compiled probes, from the cache if they are there; errors as ``pipeline.native.library``."""
    from superopt.pipeline.native import library

    return library(SOURCE, "probes")


class Probes:
    """The probes of a compiled library, on ``threads`` threads.

    bandwidth: bytes per second; peak: operations per second; exp_s: seconds of one exponential;
    launch_s: seconds of a call from Python that opens an empty parallel region.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._lib, self.threads = ctypes.CDLL(str(path)), threads
        for name in ("probe_read", "probe_peak", "probe_peak_bf16", "probe_exp"):
            getattr(self._lib, name).restype = ctypes.c_double
        self._small = _aligned(_L1_FLOATS).uniform_(-4.0, 4.0)
        self._evicted: torch.Tensor | None = None

    def bandwidth(self, data: torch.Tensor, runs: int = 3) -> float:
        """Of reading a float32 buffer from ``aligned``; the best of some passes."""
        count, at = ctypes.c_int64(data.numel()), ctypes.c_void_p(data.data_ptr())
        best = min(self._lib.probe_read(at, count, self.threads) for _ in range(runs))
        return 4 * data.numel() / best

    def peak(self, dtype: torch.dtype, runs: int = 2) -> float:
        """Of multiply-adds in registers; in bfloat16 by dot products of pairs, where there are any."""
        call = self._lib.probe_peak_bf16 if dtype == torch.bfloat16 else self._lib.probe_peak
        return max(call(ctypes.c_int64(_STEPS), self.threads) for _ in range(runs))

    def exp_s(self, runs: int = 2) -> float:
        """Of float32 values in the innermost cache."""
        at, count = ctypes.c_void_p(self._small.data_ptr()), ctypes.c_int64(_L1_FLOATS)
        rounds = ctypes.c_int64(500)
        return min(self._lib.probe_exp(at, count, rounds, self.threads) for _ in range(runs))

    def exp(self, x: torch.Tensor) -> torch.Tensor:
        """The exponentials that ``exp_s`` times, of a float32 vector: what a test compares."""
        out = _aligned(-(-x.numel() // 16) * 16).fill_(0.0)
        out[: x.numel()] = x
        count = ctypes.c_int64(out.numel())
        self._lib.probe_exp_values(ctypes.c_void_p(out.data_ptr()), count)
        return out[: x.numel()]

    def launch_s(self) -> float:
        """Of one call."""
        region, threads = self._lib.probe_region, self.threads
        t0 = time.perf_counter()
        region(threads)
        return time.perf_counter() - t0

    def evict(self, size: int) -> None:
        """Touches ``size`` bytes on threads of its own, so that no cache holds anything else."""
        if self._evicted is None or self._evicted.numel() != size:
            self._evicted = torch.zeros(size, dtype=torch.uint8)
        at = ctypes.c_void_p(self._evicted.data_ptr())
        self._lib.evict(at, ctypes.c_int64(size), self.threads)


def _aligned(count: int) -> torch.Tensor:
    """A float32 vector whose first element lies at a multiple of 64 bytes."""
    room = torch.zeros(count + 16)
    skip = -(room.data_ptr() // 4) % 16
    return room[skip : skip + count]


def buffer(size: int) -> torch.Tensor:
    """A float32 buffer of about ``size`` bytes for ``Probes.bandwidth``."""
    return _aligned(max(4096, size // 4)).fill_(1.0)
