/*
 * What this program runs on and was made from, in words: for the heads of CSV files and of
 * benchmark tables.
 */
#ifndef COMMON_MACHINE_H
#define COMMON_MACHINE_H

#include "common/core/context.h"

typedef struct MachineText {
    char text[192];
} MachineText;

MachineText cpu_describe(void); /* "AMD EPYC 9454, 2 cores" */
/* "OpenBLAS 0.3.21, SkylakeX kernels": see `make doctor` if they are slow ones */
MachineText blas_describe(void);
MachineText compiler_describe(void); /* "gcc 12.2.0" */

MachineText device_describe(const Context *ctx); /* "cpu", or the GPU and its memory */

/* The commit of the tree that holds this program, with "-dirty" behind it when sources differ;
 * "unknown" without git. */
MachineText commit_describe(void);

#endif
