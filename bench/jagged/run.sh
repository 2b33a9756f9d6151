#!/bin/sh
# Checks and times jagged attention and the other jagged operators on a GPU machine, and
# their peers there:
#   bench/jagged/run.sh GPU_ATTENTION FOLDER [DATA]
# GPU_ATTENTION is the built example (cargo build --release -p palmette-jagged --example
# gpu_attention), FOLDER takes lengths, kernels and results, DATA has s3rec_sequences.parquet
# and s3rec_item_attributes.parquet. Needs NVRTC, PyTorch and the package palmette.
set -e
program=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
data=${3:+$(realpath "$3")}
mkdir -p "$2"
cd "$2"
export PALMETTE_CACHE_DIR="$PWD/cache"
python3 "$here/lengths.py" lengths | tee lengths.txt
parts=$(nproc)
for part in $(seq 0 $((parts - 1))); do "$program" precompile "$part" "$parts" & done
wait
"$program" check --require wgmma > check.txt || echo "check failed"
"$program" operators > operators.txt || echo "operators failed"
python3 -m unittest discover -s "$here/../../python/tests" > python.txt 2>&1 || echo "the Python tests failed"
for case in "check --only grouped" "check --only cross" "operators --only products" "operators --only small" "operators --only hstu"; do
    timeout 60 compute-sanitizer --tool memcheck --error-exitcode 9 "$program" $case > memcheck.txt || echo "memcheck of $case failed"
done
for case in "check --only cross --path plain" "check --only cross --path mma" "operators --only portable" "operators --only small" "operators --only hstu"; do
    timeout 60 compute-sanitizer --tool racecheck --error-exitcode 9 "$program" $case > racecheck.txt || echo "racecheck of $case failed"
done
# Racecheck follows mbarriers from version 2026.4 on (PyPI: nvidia-cuda-sanitizer-api), and arrivals where every lane makes its own.
for case in "check --path wgmma --only tiny" "operators --only wgmma"; do
    PALMETTE_NVRTC_OPTIONS="-DARRIVALS=32 --generate-line-info" timeout 200 compute-sanitizer --tool racecheck --error-exitcode 9 "$program" $case > racecheck.txt || echo "racecheck of $case failed"
done
for workload in 1024 2048 4096; do
    (cd lengths && timeout 60 "$program" bench "$workload") > "bench_$workload.txt" || echo "bench $workload failed"
done
(cd lengths && timeout 60 "$program" causal 4096) > causal.txt || echo "causal failed"
(cd lengths && timeout 100 "$program" types 1024 2048 4096) > types.txt || echo "types failed"
(cd lengths && timeout 100 python3 "$here/forms.py" pooled 1024 2048 4096 && timeout 100 python3 "$here/forms.py" hstu 1024 2048) > forms.txt || echo "forms failed"
timeout 60 python3 "$here/row_errors.py" > row_errors.txt || echo "row errors failed"
(cd lengths && timeout 60 "$program" small 1024 2048 4096) > small.txt || echo "small failed"
(cd lengths && timeout 400 python3 "$here/peers.py" --seconds 350 --markdown ../peers.md 1024 2048 4096) > peers.txt || echo "peers failed"
(cd lengths && timeout 100 python3 "$here/peers.py" --seconds 80 --markdown ../fuller.md --only palmette,FlashAttention-4,varlen,cuDNN 1024_50 1024_90) > fuller.txt || echo "fuller rows failed"
(cd lengths && timeout 200 python3 "$here/profile_step.py" 1024_50 1024_90 2048 4096) > steps.txt || echo "profiles failed"
taskset -c 0,1 timeout 200 python3 "$here/cpu_peers.py" 2 256 lengths/1024 > cpu.txt || echo "cpu peers failed"
test -z "$data" || timeout 300 python3 "$here/histories.py" "$data" > histories.txt || echo "histories failed"
tail -n 3 check.txt operators.txt python.txt
for workload in 1024 2048 4096; do tail -n 7 "bench_$workload.txt"; done
cat causal.txt types.txt forms.txt row_errors.txt small.txt peers.md fuller.md steps.txt cpu.txt
test -z "$data" || cat histories.txt
