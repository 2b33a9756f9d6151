"""Row lengths of the jagged workloads, one int32 file each.

Log-normal with sigma 1, scaled so that the clipped mean is a given fraction of the maximum, one
row at the maximum, seed 0: `python lengths.py FOLDER`. 1024 rows, more where maxima are below 1024.
"""

import math
import pathlib
import sys

import torch


def lengths(longest: int, mean_fraction: float, rows: int = 1024) -> torch.Tensor:
    normal = torch.randn(rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = 1e-3, 50.0
    for _ in range(60):
        scale = math.sqrt(low * high)
        drawn = (scale * longest * torch.exp(normal)).round().clamp(1, longest)
        if drawn.mean() < mean_fraction * longest:
            low = scale
        else:
            high = scale
    drawn = drawn.long()
    drawn[0] = longest
    return drawn


LONG = [(longest, fraction, 1024) for longest in (1024, 2048, 4096) for fraction in (0.2, 0.5, 0.9)]
# Enough rows that a call takes some hundred microseconds.
SHORT = [
    (50, 0.2, 16384),
    (64, 0.9, 8192),
    (128, 0.2, 8192),
    (128, 0.9, 4096),
    (256, 0.2, 8192),
    (256, 0.9, 2048),
    (512, 0.2, 4096),
]

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for longest, fraction, rows in LONG + SHORT:
        drawn = lengths(longest, fraction, rows)
        name = str(longest) if fraction == 0.2 else f"{longest}_{round(fraction * 100)}"
        drawn.int().numpy().tofile(folder / name)
        total, squares = int(drawn.sum()), float((drawn.double() ** 2).sum())
        padded = len(drawn) * longest
        print(f"{name}: {total} tokens, padding {padded / total:.2f}x tokens, {padded * longest / squares:.2f}x scores")
