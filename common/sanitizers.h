// Which sanitizer this is compiled for. g++ and clang have their own ways to tell.
#ifndef VIOMMU_COMMON_SANITIZERS_H_
#define VIOMMU_COMMON_SANITIZERS_H_

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define VIOMMU_ADDRESS_SANITIZER
#endif
#if __has_feature(thread_sanitizer)
#define VIOMMU_THREAD_SANITIZER
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(VIOMMU_ADDRESS_SANITIZER)
#define VIOMMU_ADDRESS_SANITIZER
#endif
#if defined(__SANITIZE_THREAD__) && !defined(VIOMMU_THREAD_SANITIZER)
#define VIOMMU_THREAD_SANITIZER
#endif

#endif  // VIOMMU_COMMON_SANITIZERS_H_
