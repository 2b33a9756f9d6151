#!/bin/sh
# Checks and times jagged attention on a GPU machine, then its peers there:
#   bench/jagged/run.sh GPU_ATTENTION FOLDER
# GPU_ATTENTION is the built example (cargo build --release -p palmette-jagged --example
# gpu_attention), FOLDER takes lengths, kernels and results. Needs NVRTC and PyTorch.
set -e
program=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
mkdir -p "$2"
cd "$2"
export PALMETTE_CACHE_DIR="$PWD/cache"
python3 "$here/lengths.py" lengths | tee lengths.txt
parts=$(nproc)
for part in $(seq 0 $((parts - 1))); do "$program" precompile "$part" "$parts" & done
wait
"$program" check --require wgmma > check.txt
for workload in 1024 2048 4096 1024_50 1024_90; do
    (cd lengths && timeout 60 "$program" bench "$workload") > "bench_$workload.txt" || echo "bench $workload failed"
done
(cd lengths && timeout 250 python3 "$here/peers.py" --seconds 200 1024 2048 4096) > peers.txt || echo "peers failed"
tail -n 8 check.txt
for workload in 1024 2048 4096 1024_50 1024_90; do tail -n 7 "bench_$workload.txt"; done
cat peers.txt
