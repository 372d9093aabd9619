"""What the peers share: timing, ceilings, and rows that look like those of common/program/bench.c."""

import time

import torch


def sample(function, device, calls):
    """Seconds for one of `calls` calls; on a GPU by events around all of them, as in bench.c."""
    if device == "cuda":
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            function()
        stop.record()
        stop.synchronize()
        return 1e-3 * start.elapsed_time(stop) / calls
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def measure(function, device, seconds):
    """(minimum, median) seconds of a call: warm-up, then 5 or more repeats for about `seconds`."""
    for _ in range(2):
        sample(function, device, 1)
    once = sample(function, device, 1)
    calls = max(1, int((5e-3 if device == "cuda" else 1e-4) / once))
    repeats = min(2000, max(5, int(seconds / (once * calls))))
    times = sorted(sample(function, device, calls) for _ in range(repeats))
    return times[0], (times[(repeats - 1) // 2] + times[repeats // 2]) / 2


def matrix_peak(device, dtype, seconds):
    """Operations per second of the best square matrix product, as bench_ceilings() measures it."""
    best = 0
    for n in [8192] if device == "cuda" else [512, 1024, 2048]:
        x = torch.randn(n, n, device=device, dtype=dtype)
        w = torch.randn(n, n, device=device, dtype=dtype)
        for product in (lambda: x @ w.T, lambda: x @ w):
            best = max(best, 2 * n**3 / measure(product, device, seconds)[0])
    return best


def copy_peak(device, seconds):
    """Bytes read and written per second by a copy far above the caches."""
    size = 4 << 30 if device == "cuda" else 256 << 20
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device, seconds)[0]


def duration(seconds):
    if seconds < 1e-3:
        return f"{1e6 * seconds:.4g} us"
    return f"{1e3 * seconds:.4g} ms" if seconds < 1 else f"{seconds:.4g} s"


class Table:
    def __init__(self, device, dtype, seconds):
        self.device, self.seconds = device, seconds
        self.copy = copy_peak(device, 0.5)
        self.peak = matrix_peak(device, dtype, 0.5)
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        print(f"PyTorch {torch.__version__}, {name}, {torch.get_num_threads()} threads")
        print(
            f"ceilings  copy {1e-9 * self.copy:.4g} GB/s (read + write), "
            f"{str(dtype).removeprefix('torch.')} {1e-9 * self.peak:.4g} GFLOP/s"
        )

    def head(self, title):
        print(f"\n{title}")
        print(
            f"  {'':40} {'min':>9} {'median':>9} {'GFLOP/s':>10} {'of peak':>7}"
            f" {'GB/s':>8} {'of copy':>7}"
        )

    def row_time(self, name, flop, best, median, bytes_=0):
        line = f"  {name:40} {duration(best):>9} {duration(median):>9}"
        line += f" {1e-9 * flop / best:10.1f} {100 * flop / best / self.peak:6.1f}%"
        if bytes_:
            line += f" {1e-9 * bytes_ / best:8.1f} {100 * bytes_ / best / self.copy:6.1f}%"
        else:
            line += f" {'-':>8} {'-':>7}"
        print(line, flush=True)

    def row(self, name, flop, function, bytes_=0):
        self.row_time(name, flop, *measure(function, self.device, self.seconds), bytes_)

    def note(self, name, text):
        print(f"  {name:40} {text}", flush=True)
