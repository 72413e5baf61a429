#!/usr/bin/env bash
# Test log-likelihoods: five UCI sets on the CPU (3 processes), BSDS300 on the GPU (1 process). About 420 s.
set -u
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
out=$OUT/tables-density; mkdir -p "$out"
run() { python benchmarks/density.py "$@"; }
run uci "$DATA" --sets red_wine housing --steps 800 --limit 6 > "$out/uci-a.txt" 2>&1 &
run uci "$DATA" --sets parkinsons --steps 1500 --limit 6 > "$out/uci-b.txt" 2>&1 &
run uci "$DATA" --sets white_wine --steps 800 --limit 6 > "$out/uci-c.txt" 2>&1 &
run uci "$DATA" --sets ionosphere --steps 400 --models steadyflow zuko --limit 6 > "$out/uci-d.txt" 2>&1 &
run bsds300 "$DATA" --device cuda --minutes 3.1 --batch 1024 --validate 500 --models steadyflow zuko > "$out/bsds300.txt" 2>&1 &
wait
ls -la "$out"
