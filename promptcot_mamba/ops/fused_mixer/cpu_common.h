// What the mixer's passes share: the shape of the work, the caller's types, and an exponential that vectorises.
//
// Letters as in ssd/chunk_math.py: c chunks of q tokens, h heads of p channels, g groups of k = h / g heads, n states.
// Rows of tokens are the caller's float or bfloat16; everything inside is float. A chunk lies within one document, so
// that a tap of the convolution stops at the document's start and nothing crosses. Padding rows are zero.
// No result depends on the number of threads: each task writes its own part, sums are finished by the caller.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace mixer {

struct Shape {
  int64_t c, q, h, p, g, n, w;  // w: width of the convolution
  int64_t row;                  // elements of one row of zxbcdt
  const int64_t* start;         // (c) first token of each chunk
  const int64_t* length;        // (c) tokens in it
  const int64_t* position;      // (c) tokens of its document before it
  const float* halo;            // (w - 1, conv) what stands before the first document; null: nothing does
  int64_t inner() const { return h * p; }
  int64_t conv() const { return h * p + 2 * g * n; }
};

struct bf16 {
  uint16_t bits;
};

inline float load(float value) { return value; }
inline float load(bf16 value) {
  uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline void store(float* place, float value) { *place = value; }
inline void store(bf16* place, float value) {  // to nearest, ties to even; a NaN stays one
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  place->bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

// exp to about one unit in the last place, written so that the compiler can vectorise the loops it stands in:
// x = m ln 2 + r, a degree-6 polynomial for e^r, and m added to the exponent's bits.
inline float exp_(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  float m = std::rint(x * 1.44269504f);
  float r = x - m * 0.693359375f;
  r = r + m * 2.12194440e-4f;
  float s = 1.98756915e-4f;
  s = s * r + 1.39819995e-3f;
  s = s * r + 8.33345205e-3f;
  s = s * r + 4.16657962e-2f;
  s = s * r + 1.66666655e-1f;
  s = s * r + 5.00000012e-1f;
  s = s * r * r + r + 1.0f;
  int32_t bits = (static_cast<int32_t>(m) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return s * scale;
}
inline float decay_(float x) { return x < -87.0f ? 0.0f : exp_(x); }
inline float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }

}  // namespace mixer
