/*
 * A program built without nvcc: no NCCL, and no GPU whose memory would go through the host.
 */
#ifndef WITH_CUDA
#include "common/comm/nccl_none.h"

void *pinned_alloc(size_t bytes) {
    return (void)bytes, check_failed(__FILE__, __LINE__, "gpu", "built without CUDA"), NULL;
}
void pinned_free(void *data) { (void)data; }
#endif
