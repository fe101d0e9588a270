// The system's RocksDB is not built for the sanitizer for data races: it sees the library copy memory, but not the
// atomics that order the copies. What the library does by itself is therefore left out; what our code does is not.

#include "common/sanitizers.h"

#ifdef VIOMMU_THREAD_SANITIZER
// NOLINTNEXTLINE: the sanitizer's name
extern "C" const char* __tsan_default_suppressions() { return "called_from_lib:librocksdb.so\n"; }
#endif
