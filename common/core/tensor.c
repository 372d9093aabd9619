/*
 * Shapes as text, and the check at every module's door: -1 in the wanted shape stands for any size,
 * and a violation prints both shapes.
 */
#include "common/core/tensor.h"

#include "common/core/error.h"

#include <stdio.h>

const char *device_name(Device device) { return device == CUDA ? "cuda" : "cpu"; }

int64_t tensor_count(const Tensor *t) {
    int64_t count = 1;
    for (int i = 0; i < t->ndim; i++) count *= t->shape[i];
    return count;
}

size_t tensor_bytes(const Tensor *t) { return dtype_bytes(t->dtype, tensor_count(t)); }

int64_t tensor_dim(const Tensor *t, int i) {
    if (i < 0) i += t->ndim;
    CHECK(i >= 0 && i < t->ndim, "%s has %d dimensions, no dimension %d", t->name, t->ndim, i);
    return t->shape[i];
}

int64_t tensor_rows(const Tensor *t) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->ndim; i++) rows *= t->shape[i];
    return rows;
}

/* "[2, 16, any]": -1 is written as "any". */
static ShapeText sizes_text(const int64_t *shape, int ndim) {
    ShapeText s;
    size_t used = 0;
    s.text[used++] = '[';
    for (int i = 0; i < ndim; i++) {
        const char *comma = i ? ", " : "";
        size_t room = sizeof s.text - used;
        if (shape[i] < 0)
            used += (size_t)snprintf(s.text + used, room, "%sany", comma);
        else
            used += (size_t)snprintf(s.text + used, room, "%s%lld", comma, (long long)shape[i]);
    }
    snprintf(s.text + used, sizeof s.text - used, "]");
    return s;
}

bool tensors_have_dtype(const Tensor *const *list, size_t count, DType dtype) {
    for (size_t i = 0; i < count; i++)
        if (list[i] && list[i]->dtype != dtype) return false;
    return true;
}

ShapeText shape_text(const Tensor *t) { return sizes_text(t->shape, t->ndim); }

void check_shape(const char *where, const Tensor *t, DType dtype, const int64_t *shape, int ndim) {
    CHECK(t, "%s: a tensor is missing", where);
    bool fits = t->ndim == ndim && t->dtype == dtype;
    for (int i = 0; fits && i < ndim; i++) fits = shape[i] < 0 || t->shape[i] == shape[i];
    if (fits) return;
    check_failed(__FILE__, __LINE__, "shape", "%s: %s is %s %s, but should be %s %s", where,
                 t->name, dtype_name(t->dtype), shape_text(t).text, dtype_name(dtype),
                 sizes_text(shape, ndim).text);
}

Tensor tensor_view(void *data, const char *name, DType dtype, Device device, const int64_t *shape,
                   int ndim) {
    CHECK(ndim >= 0 && ndim <= MAX_DIMS, "%s: %d dimensions, at most %d", name, ndim, MAX_DIMS);
    Tensor t = {.data = data, .name = name, .dtype = dtype, .device = device, .ndim = ndim};
    for (int i = 0; i < MAX_DIMS; i++) {
        t.shape[i] = i < ndim ? shape[i] : 1;
        CHECK(t.shape[i] >= 0, "%s: dimension %d is negative", name, i);
    }
    return t;
}

float tensor_get(const Tensor *t, int64_t i) {
    CHECK(t->device == CPU, "%s is on the GPU", t->name);
    CHECK(i >= 0 && i < tensor_count(t), "%s has no element %lld", t->name, (long long)i);
    switch (t->dtype) {
    case F32:
        return ((const float *)t->data)[i];
    case BF16:
        return bf16_to_float(((const uint16_t *)t->data)[i]);
    case I32:
        return (float)((const int32_t *)t->data)[i];
    case I64:
        return (float)((const int64_t *)t->data)[i];
    default:
        check_failed(__FILE__, __LINE__, "dtype", "no numbers in %s", dtype_name(t->dtype));
    }
}
