// Single-precision matrix products for CPUs: C (m, n) = A (m, k) B (k, n), any strides, in the usual layered form.
//
// Operands are copied into panels (HEIGHT rows of A, WIDTH columns of B, one step of k after another), so that the
// innermost loop reads memory in order; it holds a HEIGHT x WIDTH tile of C in registers. Each pass of the mixer calls
// `pack` and `multiply` on the thread that has the chunk, so sums do not depend on the number of threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace cpu {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
constexpr int64_t HEIGHT = 6, WIDTH = 2 * LANES;  // 12 sums in registers: what two units with a latency of 4 need

inline vec load_vec(const float* place) { return *reinterpret_cast<const vec*>(place); }
inline void store_vec(float* place, vec value) { *reinterpret_cast<vec*>(place) = value; }
inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t eight_places __attribute__((vector_size(32)));
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, eight_places{__VA_ARGS__})
#endif

// Eight rows of eight -> their columns, in three rounds of pairwise exchanges.
inline void transpose(eight (&r)[8]) {
  eight s[8], t[8];
  for (int i = 0; i < 8; i += 2) {
    s[i] = SHUFFLE(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    s[i + 1] = SHUFFLE(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int half = 0; half < 2; ++half) {
      t[i + 2 * half] = SHUFFLE(s[i + half], s[i + 2 + half], 0, 1, 8, 9, 4, 5, 12, 13);
      t[i + 2 * half + 1] = SHUFFLE(s[i + half], s[i + 2 + half], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = SHUFFLE(t[i], t[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    r[i + 4] = SHUFFLE(t[i], t[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// Element (i, t) stands at[i * across + t * along], t running over k.
struct Operand {
  const float* at;
  int64_t across, along;
};

// SIZE rows whose steps lie side by side, into one panel. May write two floats past its end.
template <int64_t SIZE>
inline void pack_turned(const float* at, int64_t across, int64_t depth, float* out) {
  int64_t t = 0;
  for (; t + 8 <= depth; t += 8) {
    for (int64_t first = 0; first < SIZE; first += 8) {
      eight block[8] = {};
      for (int64_t r = 0; r < std::min<int64_t>(8, SIZE - first); ++r)
        block[r] = *reinterpret_cast<const eight*>(at + (first + r) * across + t);
      transpose(block);
      for (int64_t r = 0; r < 8; ++r) *reinterpret_cast<eight*>(out + (t + r) * SIZE + first) = block[r];
    }
  }
  for (; t < depth; ++t)
    for (int64_t r = 0; r < SIZE; ++r) out[t * SIZE + r] = at[r * across + t];
}

// `count` rows (of A; columns of B) times `depth` steps into panels of SIZE, the last one filled up with zeros. `out`
// has room for two floats more.
template <int64_t SIZE>
inline void pack(const Operand& from, int64_t count, int64_t depth, float* out) {
  int64_t i = 0;
  for (; i + SIZE <= count; i += SIZE, out += SIZE * depth) {
    const float* at = from.at + i * from.across;
    if (from.along == 1) {
      pack_turned<SIZE>(at, from.across, depth, out);
    } else if (from.across == 1) {
      for (int64_t t = 0; t < depth; ++t)
        for (int64_t r = 0; r < SIZE; ++r) out[t * SIZE + r] = at[t * from.along + r];
    } else {
      for (int64_t t = 0; t < depth; ++t)
        for (int64_t r = 0; r < SIZE; ++r) out[t * SIZE + r] = at[r * from.across + t * from.along];
    }
  }
  if (i == count) return;
  std::fill(out, out + SIZE * depth, 0.0f);
  for (int64_t r = 0; i < count; ++i, ++r)
    for (int64_t t = 0; t < depth; ++t) out[t * SIZE + r] = from.at[i * from.across + t * from.along];
}

// ROWS x WIDTH of C from rows of A (row r, step t: a[r * row + t * step]) and one panel of B; `add` keeps what C holds.
template <int64_t ROWS>
__attribute__((always_inline)) inline void tile(int64_t depth, const float* a, int64_t row, int64_t step,
                                                const float* b, float* c, int64_t ldc, bool add) {
  vec sums[ROWS][2] = {};
  for (int64_t t = 0; t < depth; ++t, a += step, b += WIDTH) {
    vec b0 = load_vec(b), b1 = load_vec(b + LANES);
#if defined(__x86_64__)
    __asm__("" : "+v"(b0), "+v"(b1));  // held in registers, not loaded again for every row
#endif
#pragma GCC unroll 6
    for (int64_t r = 0; r < ROWS; ++r) {
      sums[r][0] += a[r * row] * b0;
      sums[r][1] += a[r * row] * b1;
    }
  }
#pragma GCC unroll 6
  for (int64_t r = 0; r < ROWS; ++r) {
    float* out = c + r * ldc;
    store_vec(out, add ? load_vec(out) + sums[r][0] : sums[r][0]);
    store_vec(out + LANES, add ? load_vec(out + LANES) + sums[r][1] : sums[r][1]);
  }
}

// C (rows, columns) over `depth` steps, from A as it stands or PACKED in panels, and panels of B `apart` floats apart.
template <bool PACKED>
inline void multiply(int64_t rows, int64_t columns, int64_t depth, const Operand& a, const float* b, int64_t apart,
                     float* c, int64_t ldc, bool add) {
  const int64_t row = PACKED ? 1 : a.across, step = PACKED ? HEIGHT : a.along;
  const int64_t panel = PACKED ? HEIGHT * depth : HEIGHT * a.across;
  float whole[HEIGHT * WIDTH];  // a tile over the right edge is made aside
  for (int64_t j = 0; j < columns; j += WIDTH, b += apart) {
    int64_t wide = std::min(WIDTH, columns - j);
    const float* left = a.at;
    for (int64_t i = 0; i < rows; i += HEIGHT, left += panel) {
      int64_t high = std::min(HEIGHT, rows - i);
      float* place = wide == WIDTH ? c + i * ldc + j : whole;
      int64_t between = wide == WIDTH ? ldc : WIDTH;
      bool kept = add && wide == WIDTH;
      switch (high) {
        case 1: tile<1>(depth, left, row, step, b, place, between, kept); break;
        case 2: tile<2>(depth, left, row, step, b, place, between, kept); break;
        case 3: tile<3>(depth, left, row, step, b, place, between, kept); break;
        case 4: tile<4>(depth, left, row, step, b, place, between, kept); break;
        case 5: tile<5>(depth, left, row, step, b, place, between, kept); break;
        default: tile<HEIGHT>(depth, left, row, step, b, place, between, kept);
      }
      if (wide == WIDTH) continue;
      for (int64_t r = 0; r < high; ++r) {
        float* out = c + (i + r) * ldc + j;
        for (int64_t v = 0; v < wide; ++v) out[v] = whole[r * WIDTH + v] + (add ? out[v] : 0.0f);
      }
    }
  }
}

// Room that a thread keeps from one call to the next: fresh pages cost as much as a pass over them.
struct Room {
  std::vector<float> held;
  float* take(int64_t size) {
    size += 2;  // see `pack`
    if (static_cast<int64_t>(held.size()) < size) held.resize(size);
    return held.data();
  }
};

}  // namespace cpu
