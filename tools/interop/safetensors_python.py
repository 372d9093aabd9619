#!/usr/bin/env python3
"""Does the safetensors library read what common/files/safetensors_write.c writes?

Builds a small C program that writes each dtype, lets Python read the file and compares every byte.

    tools/interop/safetensors_python.py        needs gcc, torch and safetensors
"""
import pathlib
import subprocess
import tempfile

import torch
from safetensors import safe_open

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ["files/safetensors_write", "files/files", "files/json", "core/tensor", "core/dtype",
           "core/memory", "core/utf8", "core/gpu_none", "core/error"]
NAMES = ["F32", "BF16", "F16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "I32", "I64"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2,
          torch.float8_e8m0fnu, torch.int8, torch.uint8, torch.int32, torch.int64]
PROGRAM = r"""
#include "common/files/safetensors.h"
#include <stdio.h>
int main(int argc, char **argv) {
    static unsigned char bytes[1 << 16];
    for (int k = 0; k < 1 << 16; k++) bytes[k] = (unsigned char)(37 * k + 11);
    Tensor t[I4 + 2];
    for (int d = 0; d < I4; d++) /* I4 is in no file */
        t[d] = tensor_view(bytes, dtype_name((DType)d), (DType)d, CPU, SHAPE(d % 3 + 1, 5, 31));
    t[I4] = tensor_view(bytes, "scalar", I64, CPU, NULL, 0);
    t[I4 + 1] = tensor_view(bytes, "empty \"\xe4\xb8\xad\"", F32, CPU, SHAPE(3, 0));
    KeyValue note = {"note", "two\nlines"};
    Error err;
    if (argc == 2 && safetensors_write(argv[1], t, I4 + 2, &note, 1, &err) == 0) return 0;
    fprintf(stderr, "%s\n", err.text);
    return 1;
}
"""


def expect(file, name, dtype, shape):
    got = file.get_tensor(name)
    count = torch.Size(shape).numel() * got.element_size()
    want = torch.tensor([(37 * k + 11) % 256 for k in range(count)], dtype=torch.uint8)
    assert got.dtype == dtype and list(got.shape) == list(shape), (name, got.dtype, got.shape)
    assert torch.equal(got.reshape(-1).view(torch.uint8), want), name


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "write.c").write_text(PROGRAM)
        sources = [str(ROOT / f"common/{name}.c") for name in SOURCES]
        subprocess.run(["gcc", "-std=gnu11", "-O1", f"-I{ROOT}", "write.c", *sources,
                        "-lcjson", "-o", "write"], cwd=folder, check=True)
        subprocess.run(["./write", "a.safetensors"], cwd=folder, check=True)
        with safe_open(folder / "a.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt", "note": "two\nlines"}, file.metadata()
            for d, (name, dtype) in enumerate(zip(NAMES, DTYPES)):
                expect(file, name, dtype, [d % 3 + 1, 5, 31])
            expect(file, "scalar", torch.int64, [])
            expect(file, 'empty "中"', torch.float32, [3, 0])
            print(f"{len(file.keys())} tensors agree")


if __name__ == "__main__":
    main()
