// The mixer's causal convolution with its silu, forward chunk by chunk, backward over all chunks.
//
// A block of channels is copied with the tokens it needs into rows that stay in cache, zeros standing for what lies
// before its document, or the halo where another slice of the row holds it: the loops over them know no borders.

#pragma once

#include <type_traits>
#include <vector>

#include "cpu_common.h"

namespace mixer {

constexpr int64_t BLOCK = 64;  // channels

// The usual width is known to the compiler, any other works too.
template <typename Body>
inline void with_width(int64_t w, Body&& body) {
  if (w == 4) {
    body(std::integral_constant<int64_t, 4>{});
  } else {
    body(w);
  }
}

// rows (w - 1 + tokens, BLOCK): the chunk's token i before the convolution in row w - 1 + i; `wide` channels.
template <typename T>
inline void gather(const Shape& s, int64_t chunk, int64_t tokens, int64_t first, int64_t wide, const T* zxbcdt,
                   float* rows) {
  std::fill(rows, rows + (s.w - 1 + tokens) * BLOCK, 0.0f);
  for (int64_t i = -std::min(s.w - 1, s.position[chunk]); i < tokens; ++i) {
    const T* in = zxbcdt + (s.start[chunk] + i) * s.row + s.inner() + first;
    float* row = rows + (s.w - 1 + i) * BLOCK;
    for (int64_t v = 0; v < wide; ++v) row[v] = load(in[v]);
  }
  if (s.halo == nullptr || s.start[chunk] != s.position[chunk]) return;  // only the first document has one
  for (int64_t i = 0; i + s.position[chunk] < s.w - 1; ++i)  // the halo's last rows, up to the document's start
    std::copy_n(s.halo + (i + s.position[chunk]) * s.conv() + first, wide, rows + i * BLOCK);
}

// taps (w, BLOCK) and, last, the bias.
inline void gather_taps(const Shape& s, int64_t first, int64_t wide, const float* taps, const float* bias,
                        float* out) {
  std::fill(out, out + (s.w + 1) * BLOCK, 0.0f);
  for (int64_t tap = 0; tap < s.w; ++tap) std::copy_n(taps + tap * s.conv() + first, wide, out + tap * BLOCK);
  std::copy_n(bias + first, wide, out + s.w * BLOCK);
}

// What a token's convolution is before its silu; its w rows begin at `rows`.
template <typename Width>
inline void filter(Width w, const float* rows, const float* taps, float* pre) {
  for (int64_t v = 0; v < BLOCK; ++v) {
    float sum = taps[w * BLOCK + v];
    for (int64_t tap = 0; tap < w; ++tap) sum += taps[tap * BLOCK + v] * rows[tap * BLOCK + v];
    pre[v] = sum;
  }
}

// Convolution and silu of one chunk's tokens into xbc (q, conv); zeros in its padding.
template <typename T>
void convolve(const Shape& s, int64_t chunk, const T* zxbcdt, const float* taps, const float* bias, float* xbc) {
  int64_t conv = s.conv(), length = s.length[chunk];
  static thread_local std::vector<float> rows, local;
  rows.resize((s.w - 1 + s.q) * BLOCK), local.resize((s.w + 1) * BLOCK);
  for (int64_t first = 0; first < conv; first += BLOCK) {
    int64_t wide = std::min(BLOCK, conv - first);
    gather(s, chunk, length, first, wide, zxbcdt, rows.data());
    gather_taps(s, first, wide, taps, bias, local.data());
    with_width(s.w, [&](auto w) {
      for (int64_t i = 0; i < length; ++i) {
        float pre[BLOCK];
        filter(w, rows.data() + i * BLOCK, local.data(), pre);
        for (int64_t v = 0; v < BLOCK; ++v) pre[v] *= sigmoid(pre[v]);
        std::copy_n(pre, wide, xbc + i * conv + first);
      }
    });
  }
  std::fill(xbc + length * conv, xbc + s.q * conv, 0.0f);
}

// Gradients of a chunk's tokens, to which the next w-1 tokens of its document contribute too: their gradients before
// the activation are made again here rather than shared. dtaps (c, w, conv) and dbias (c, conv) are sums over a chunk;
// dhalo (w - 1, conv) is null where there is no halo.
template <typename T>
void convolve_backward(const Shape& s, const T* zxbcdt, const float* taps, const float* bias, const float* dxbc,
                       T* dzxbcdt, float* dtaps, float* dbias, float* dhalo) {
  int64_t conv = s.conv(), blocks = (conv + BLOCK - 1) / BLOCK;
#pragma omp parallel
  {
    std::vector<float> rows((s.w - 1 + s.q + s.w) * BLOCK), dpre(rows.size()), local((s.w + 1) * BLOCK);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      for (int64_t block = 0; block < blocks; ++block) {
        int64_t first = block * BLOCK, wide = std::min(BLOCK, conv - first), length = s.length[chunk];
        int64_t after = 0;  // tokens of the document's next chunks within reach
        for (int64_t next = chunk + 1; next < s.c && s.position[next] && after < s.w - 1; ++next)
          after += s.length[next];
        int64_t tokens = length + std::min(after, s.w - 1);
        gather(s, chunk, tokens, first, wide, zxbcdt, rows.data());
        gather_taps(s, first, wide, taps, bias, local.data());
        std::fill(dpre.data() + length * BLOCK, dpre.data() + (length + s.w - 1) * BLOCK, 0.0f);
        with_width(s.w, [&](auto w) {
          for (int64_t i = 0; i < tokens; ++i) {
            const float* dy = dxbc + (chunk * s.q + i) * conv + first;
            float *out = dpre.data() + i * BLOCK, pre[BLOCK];
            filter(w, rows.data() + i * BLOCK, local.data(), pre);
            for (int64_t v = 0; v < wide; ++v) {
              float gate = sigmoid(pre[v]);
              out[v] = dy[v] * gate * (1.0f + pre[v] * (1.0f - gate));
            }
          }
          for (int64_t i = 0; i < length; ++i) {  // a token is seen by the w - 1 after it, through ever earlier taps
            T* out = dzxbcdt + (s.start[chunk] + i) * s.row + s.inner() + first;
            const float* felt = dpre.data() + i * BLOCK;
            for (int64_t v = 0; v < wide; ++v) {
              float sum = 0.0f;
              for (int64_t back = 0; back < w; ++back)
                sum += local[(w - 1 - back) * BLOCK + v] * felt[back * BLOCK + v];
              store(out + v, sum);
            }
          }
          for (int64_t r = 0; dhalo && chunk == 0 && r < w - 1; ++r) {  // row r is seen by tokens 0 to r, if there are
            float* out = dhalo + r * conv + first;
            std::fill(out, out + wide, 0.0f);
            for (int64_t i = 0; i <= r && i < tokens; ++i)
              for (int64_t v = 0; v < wide; ++v) out[v] += local[(r - i) * BLOCK + v] * dpre[i * BLOCK + v];
          }
          std::fill(local.begin(), local.end(), 0.0f);  // from here the sums of taps and bias
          for (int64_t i = 0; i < length; ++i) {
            const float *felt = dpre.data() + i * BLOCK, *seen = rows.data() + i * BLOCK;
            for (int64_t v = 0; v < wide; ++v) {
              for (int64_t tap = 0; tap < w; ++tap) local[tap * BLOCK + v] += felt[v] * seen[tap * BLOCK + v];
              local[w * BLOCK + v] += felt[v];
            }
          }
        });
        for (int64_t tap = 0; tap < s.w; ++tap)
          std::copy_n(local.data() + tap * BLOCK, wide, dtaps + (chunk * s.w + tap) * conv + first);
        std::copy_n(local.data() + s.w * BLOCK, wide, dbias + chunk * conv + first);
      }
    }
  }
}

}  // namespace mixer
