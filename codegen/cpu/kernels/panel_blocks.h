// Weight formats as the kernels read them: a panel's blocks of 32 k one after another, each with its
// codes and what scales them (layout: packing.py).
//
// A format says what a block adds to a sum, with dot = sum q_w q_x, and the input's scale and sum:
//
//   i8b, i5s, i4s:             d * dot * scale
//   i5a, i5k, i4a, i4k:        d * dot * scale + m * sum
//   i6k:                       (d * first half of dot + m * second half) * scale
//   i8c:                       dot * scale, and the total is multiplied with the row's scale
//
// Stored codes are q_w + kOffset. `unit` is unit_blocks(blocks) of the format, found once for all
// panels of a matrix.
#pragma once

#include "panel_codes.h"

namespace llmc {

enum class Sides { row_scale, scale, scale_and_minimum, halves };

// A block of a panel: codes, and scale and minimum of its 16 rows (halves: both scales).
struct Block {
  const uint8_t* data;
  Vec d, m;
};

LLMC_INLINE Vec load_f16(const uint8_t* p) { return f16_to_float(load_half((const uint16_t*)p)); }

typedef uint8_t UBytes __attribute__((ext_vector_type(16)));
typedef int8_t SBytes __attribute__((ext_vector_type(16)));

template <class Bytes>
LLMC_INLINE IVec load_bytes(const uint8_t* p) {
  Bytes v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, IVec);
}

template <class Data, int Offset, Sides Kind>
struct WeightFormat : Data {
  static constexpr int kOffset = Offset;
  static constexpr bool kRowScale = Kind == Sides::row_scale, kHalves = Kind == Sides::halves;
  static constexpr bool kMinimum = Kind == Sides::scale_and_minimum;
  static int unit_blocks(int) { return 1; }
};

// Blocks come in pairs that share a line of scales.
template <class Data, int Offset>
struct PairedBlocks : WeightFormat<Data, Offset, Sides::scale> {
  static constexpr int kPair = 2 * Data::kBytes + 64;
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, 2 * kBlock) * kPair; }
  struct Reader {
    const uint8_t* panel;
    int64_t g;
    LLMC_METHOD Reader(const uint8_t* panel, int, int, int first = 0) : panel(panel), g(first) {}
    LLMC_METHOD Block next() {
      const uint8_t* pair = panel + (g >> 1) * kPair;
      const int64_t odd = g++ & 1;
      return {pair + 64 + odd * Data::kBytes, load_f16(pair + odd * 32), splat(0.0f)};
    }
  };
};

// Each block behind a line of scales and minima.
template <class Data>
struct MinimumBlocks : WeightFormat<Data, 0, Sides::scale_and_minimum> {
  static constexpr int kStride = Data::kBytes + 64;
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, kBlock) * kStride; }
  struct Reader {
    const uint8_t* at;
    LLMC_METHOD Reader(const uint8_t* panel, int, int, int first = 0)
        : at(panel + (int64_t)first * kStride) {}
    LLMC_METHOD Block next() {
      const Block b{at + 64, load_f16(at), load_f16(at + 32)};
      at += kStride;
      return b;
    }
  };
};

// As super_block_length of weights/formats/number_format.py.
inline int super_block_length(int blocks) {
  if (blocks % 8 == 0) return 8;
  int best = min_int(blocks, 10);
  for (int n = best - 1; n >= min_int(blocks, 5) && blocks % best != 0; n--)
    if ((n - blocks % n) % n < (best - blocks % best) % best) best = n;
  return best;
}

// Super-blocks: a line of scales and minima, 6-bit factors of both for each block, then the codes.
template <class Data>
struct ScaledBlocks : WeightFormat<Data, 0, Sides::scale_and_minimum> {
  static int unit_blocks(int blocks) { return super_block_length(blocks); }
  LLMC_METHOD static int side_bytes(int unit) {
    return 64 + round_up(16 * (unit + ceil_div(unit, 2)), 64);
  }
  static int64_t panel_bytes(int k) {
    const int blocks = ceil_div(k, kBlock), unit = unit_blocks(blocks);
    return (int64_t)ceil_div(blocks, unit) * (side_bytes(unit) + unit * Data::kBytes);
  }
  struct Reader {
    const int unit, side;
    int i;  // of the block within its super-block
    const uint8_t *at, *codes;
    Vec d, m;
    LLMC_METHOD Reader(const uint8_t* panel, int, int unit, int first = 0)
        : unit(unit), side(side_bytes(unit)), i(first ? first % unit : 0), at(panel) {
      if (first) at += (int64_t)(first / unit) * (side + unit * Data::kBytes);
      open();
      codes += i * Data::kBytes;
    }
    LLMC_METHOD void open() {
      codes = at + side;
      d = load_f16(at), m = load_f16(at + 32);
    }
    LLMC_METHOD Block next() {
      if (i == unit) {
        at = codes, i = 0;
        open();
      }
      const IVec both = load_bytes<UBytes>(at + 64 + 16 * i);
      const IVec rest = load_bytes<UBytes>(at + 64 + 16 * (unit + (i >> 1))) >> ((i & 1) * 4);
      const Vec f = to_float(both & 63), g = to_float(both >> 6 | (rest & 15) << 2);
      const Block b{codes, d * f, m * g};
      codes += Data::kBytes, i++;
      return b;
    }
  };
};

struct I8B : PairedBlocks<ByteData, 128> {};
struct I5S : PairedBlocks<FiveBitData, 16> {};
struct I4S : PairedBlocks<NibbleData, 8> {};
struct I5A : MinimumBlocks<FiveBitData> {};
struct I4A : MinimumBlocks<NibbleData> {};
struct I5K : ScaledBlocks<FiveBitData> {};
struct I4K : ScaledBlocks<NibbleData> {};

// Scales of super-blocks in front; pairs of blocks share a line of factors, one for each 16 k.
struct I6K : WeightFormat<SixBitData, 32, Sides::halves> {
  static constexpr int kPair = 2 * kBytes + 64;
  static int unit_blocks(int blocks) { return super_block_length(blocks); }
  LLMC_METHOD static int head_bytes(int blocks, int unit) {
    return round_up(32 * ceil_div(blocks, unit), 64);
  }
  static int64_t panel_bytes(int k) {
    const int blocks = ceil_div(k, kBlock);
    return head_bytes(blocks, unit_blocks(blocks)) + (int64_t)ceil_div(blocks, 2) * kPair;
  }
  struct Reader {
    const int unit;
    int i, odd;  // of the block within its super-block and within its pair
    const uint8_t *scales, *pair;
    Vec d;
    LLMC_METHOD Reader(const uint8_t* panel, int blocks, int unit, int first = 0)
        : unit(unit), i(first ? first % unit : 0), odd(first & 1),
          scales(panel + (first ? first / unit * 32 : 0)),
          pair(panel + head_bytes(blocks, unit) + (int64_t)(first >> 1) * kPair),
          d(load_f16(scales)) {}
    LLMC_METHOD Block next() {
      if (i == unit) scales += 32, d = load_f16(scales), i = 0;
      const uint8_t* factors = pair + 32 * odd;
      const Block b{pair + 64 + odd * kBytes, d * to_float(load_bytes<SBytes>(factors)),
                    d * to_float(load_bytes<SBytes>(factors + 16))};
      pair += odd * kPair, odd ^= 1, i++;
      return b;
    }
  };
};

struct I8C : WeightFormat<ByteData, 128, Sides::row_scale> {
  static int64_t panel_bytes(int k) { return (int64_t)ceil_div(k, kBlock) * kBytes + 64; }
  struct Reader {
    const uint8_t* at;
    LLMC_METHOD Reader(const uint8_t* panel, int, int, int first = 0)
        : at(panel + 64 + (int64_t)first * kBytes) {}
    LLMC_METHOD Block next() {
      at += kBytes;
      return {at - kBytes, splat(1.0f), splat(0.0f)};
    }
  };
};

}  // namespace llmc
