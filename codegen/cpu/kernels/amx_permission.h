// Linux gives the tiles of AMX only to processes that ask for them, before the thread that uses them
// starts.
#pragma once

#if defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace llmc {

// Whether this process may use all instructions that the library was compiled for.
static inline bool request_instructions() {
#if defined(__AMX_TILE__) && !defined(LLMC_EMULATED_AMX)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return true;
#endif
}

}  // namespace llmc
