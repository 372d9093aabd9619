#!/usr/bin/env python3
"""Golden file of common/safetensors: every dtype, a scalar and an empty tensor, by the safetensors
library. Byte k of each tensor is (37 k + 11) mod 256, so the test needs no second copy.

    tools/goldens/common.py        needs torch and safetensors
"""
import pathlib

import torch
from safetensors.torch import save_file

TENSORS = {
    "f32": (torch.float32, [2, 3]),
    "bf16": (torch.bfloat16, [3, 5]),
    "f16": (torch.float16, [7]),
    "f8_e4m3": (torch.float8_e4m3fn, [3, 3]),
    "f8_e5m2": (torch.float8_e5m2, [5]),
    "f8_e8m0": (torch.float8_e8m0fnu, [7]),
    "i8": (torch.int8, [1, 2, 3, 1]),
    "u8": (torch.uint8, [3]),
    "i32": (torch.int32, [2, 2]),
    "i64": (torch.int64, [3]),
    "scalar": (torch.float32, []),
    "empty": (torch.float32, [0, 3]),
}


def tensor(dtype, shape):
    count = torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
    data = torch.tensor([(37 * k + 11) % 256 for k in range(count)], dtype=torch.uint8)
    return data.view(dtype).reshape(shape).clone()


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    path = root / "common/tests/goldens/dtypes.safetensors"
    path.parent.mkdir(exist_ok=True)
    tensors = {name: tensor(*what) for name, what in TENSORS.items()}
    save_file(tensors, path, metadata={"format": "pt", "note": 'café "quoted"\n'})
    print(path.relative_to(root), path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
