/*
 * OpenMP as one thread, for a compiler whose OpenMP is not installed: harnesses are built without
 * it, and an input that fails must fail again.
 */
#ifndef FUZZ_OMP_H
#define FUZZ_OMP_H

#include <time.h>

static inline int omp_get_max_threads(void) { return 1; }
static inline int omp_get_num_procs(void) { return 1; }
static inline int omp_get_thread_num(void) { return 0; }
static inline int omp_in_parallel(void) { return 0; }
static inline void omp_set_num_threads(int n) { (void)n; }
static inline double omp_get_wtime(void) { return (double)clock() / CLOCKS_PER_SEC; }

#endif
