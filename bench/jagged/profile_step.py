"""Times the kernels of one step of jagged attention, forward and backward, ours in the fast mode
beside FlashAttention-4's.

    python bench/jagged/profile_step.py FILE...

where the files come from lengths.py. bf16, 4 heads, head dimensions 64 and 128: device time of each
kernel in ms a step (PyTorch's profiler), the median of 3 rounds of 5 steps in which both take turns,
and its range. Needs a CUDA GPU, PyTorch 2.11, the package palmette and, to compare,
FlashAttention-4 (PyPI flash-attn-4).
"""

import collections
import statistics
import sys

import torch

from peers import Workload, flash_attention_4, palmette

STEPS, ROUNDS = 5, 3


def kernels(step):
    """Device time of each kernel, ms a step, in the order in which they ran first."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()
    times = {}
    for event in sorted(profile.events(), key=lambda event: event.time_range.start):
        if event.self_device_time_total:
            times[event.name] = times.get(event.name, 0) + event.self_device_time_total / 1000 / STEPS
    return times


def main():
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    for path in sys.argv[1:]:
        for dim in (64, 128):
            w = Workload(path, dim)
            steps = {}
            for name, peer in (("palmette, fast", palmette(False)), ("FlashAttention-4", flash_attention_4)):
                try:
                    leaves, call, gradient, _ = peer(w)
                except ImportError as problem:
                    print(f"{name}: {problem}")
                    continue
                for leaf in leaves:
                    leaf.requires_grad_(True)
                steps[name] = lambda leaves=leaves, call=call, gradient=gradient: torch.autograd.grad(call(), leaves, gradient)
                steps[name]()
                steps[name]()
            rounds = collections.defaultdict(list)
            for _ in range(ROUNDS):
                for name, step in steps.items():
                    rounds[name].append(kernels(step))
            for name, measured in rounds.items():
                print(f"\n{w.name} D{dim} {name}")
                for kernel in measured[0]:
                    times = [round.get(kernel, 0.0) for round in measured]
                    print(f"  {statistics.median(times):7.3f} ({min(times):.3f} to {max(times):.3f})  {kernel[:100]}")
                totals = [sum(round.values()) for round in measured]
                print(f"  {statistics.median(totals):7.3f} ({min(totals):.3f} to {max(totals):.3f})  all")


if __name__ == "__main__":
    main()
