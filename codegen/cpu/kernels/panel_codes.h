// Codes of a block of 32 k of a panel, chunk by chunk (layout: panel_codes.py): 16 output rows x 4 k
// in a vector, unsigned bytes. `dot` adds all eight chunks times their activations to R sums; `dot_half`
// the first or the last four, which are 16 k.
#pragma once

#include "int_dot.h"

namespace llmc {

// Two chunks to a line: one in the low, one in the high nibbles.
struct NibbleData {
  using Dot = NibbleDot;
  static constexpr int kBits = 4, kBytes = 256;
  template <int C>
  LLMC_METHOD static IVec chunk(const uint8_t* data) {
    const IVec v = load_int(data + 64 * (C & 3));
    return C < 4 ? low_nibbles(v) : high_nibbles(v);
  }
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; j++) {
      IVec v = load_int(data + 64 * j);
      for (int r = 0; r < R; r++) sums[r].add(low_nibbles(v), load_four(q[r] + at + 4 * j));
      for (int r = 0; r < R; r++) sums[r].add(high_nibbles(v), load_four(q[r] + at + 16 + 4 * j));
    }
  }
};

// A chunk to a line.
struct ByteData {
  using Dot = ByteDot;
  static constexpr int kBits = 8, kBytes = 512;
  template <int C>
  LLMC_METHOD static IVec chunk(const uint8_t* data) {
    return load_int(data + 64 * C);
  }
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
#pragma clang loop unroll(full)
    for (int j = 0; j < 8; j++) {
      IVec v = load_int(data + 64 * j);
      for (int r = 0; r < R; r++) sums[r].add(v, load_four(q[r] + at + 4 * j));
    }
  }
};

// Codes that dots take in two halves. `Fold`: products of 16 bits that stay below 2^15 when added.
template <class Data, int Fold>
struct HalvedData {
  using Dot = FoldedDot;
  template <int C, int R>
  LLMC_METHOD static void add_chunk(const uint8_t* data, const int8_t* const* q, int64_t at,
                                    Dot* sums) {
    const IVec v = Data::template chunk<C>(data);
    for (int r = 0; r < R; r++) {
      sums[r].add(v, load_four(q[r] + at + 4 * C));
      if (C % Fold == Fold - 1) sums[r].fold();
    }
  }
  template <int Half, int R>
  LLMC_METHOD static void dot_half(const uint8_t* data, const int8_t* const* q, int64_t at,
                                   Dot* sums) {
    add_chunk<4 * Half, R>(data, q, at, sums);
    add_chunk<4 * Half + 1, R>(data, q, at, sums);
    add_chunk<4 * Half + 2, R>(data, q, at, sums);
    add_chunk<4 * Half + 3, R>(data, q, at, sums);
  }
  template <int R>
  LLMC_METHOD static void dot(const uint8_t* data, const int8_t* const* q, int64_t at, Dot* sums) {
    dot_half<0, R>(data, q, at, sums);
    dot_half<1, R>(data, q, at, sums);
  }
};

// Nibbles, then a line whose bit c is the fifth of chunk c's codes.
struct FiveBitData : HalvedData<FiveBitData, 4> {
  static constexpr int kBits = 5, kBytes = 320;
  template <int C>
  LLMC_METHOD static IVec chunk(const uint8_t* data) {
    const IVec high = load_int(data + NibbleData::kBytes);
    return NibbleData::chunk<C>(data) | ((C < 4 ? high << (4 - C) : high >> (C - 4)) & 0x10101010);
  }
};

// Nibbles, then a line with two bits of each code of chunks 0 to 3, and one of chunks 4 to 7.
struct SixBitData : HalvedData<SixBitData, 2> {
  static constexpr int kBits = 6, kBytes = 384;
  template <int C>
  LLMC_METHOD static IVec chunk(const uint8_t* data) {
    const IVec high = load_int(data + NibbleData::kBytes + 64 * (C / 4));
    constexpr int kUp = 4 - 2 * (C % 4);
    return NibbleData::chunk<C>(data) | ((kUp >= 0 ? high << kUp : high >> -kUp) & 0x30303030);
  }
};

// One code of lane `lane`, k = 0..31, for who reads single rows.
template <class Data>
LLMC_INLINE int code_at(const uint8_t* data, int lane, int k) {
  const int chunk = k / 4, byte = lane * 4 + k % 4;
  if (Data::kBits == 8) return data[64 * chunk + byte];
  int code = data[64 * (chunk & 3) + byte] >> (chunk / 4 * 4) & 15;
  constexpr int kHigh = Data::kBits == 8 ? 0 : Data::kBits - 4, kPerLine = kHigh == 2 ? 4 : 8;
  if (kHigh) {
    const int at = NibbleData::kBytes + 64 * (chunk / kPerLine) + byte;
    code |= (data[at] >> (chunk % kPerLine * kHigh) & ((1 << kHigh) - 1)) << 4;
  }
  return code;
}

}  // namespace llmc
