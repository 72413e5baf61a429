#!/usr/bin/env bash
# Five seeds (SEEDS), 2,000 steps at 1e-3 without warm-up and clipping, MNIST padded to 32 x 32, 2 levels of 8 steps, width 128, batch 64.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/glow-stability; mkdir -p "$out"; tmp=$(mktemp -d)
MINUTES=${MINUTES:-1.9}; STEPS=${STEPS:-2000}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python - "$DATA/mnist" "$tmp/mnist32.npz" <<'P'
import sys, numpy as np
from steadyflow import data
d = data.open(sys.argv[1])
pad = lambda x: np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
np.savez(sys.argv[2], x_train=pad(d.train.x), x_test=pad(d.test.x[:2000]))
P
for seed in ${SEEDS:-0 1 2 3 4}; do
    python -m steadyflow train glow "$tmp/mnist32.npz" --steps "$STEPS" --minutes "$MINUTES" --levels 2 --model-steps 8 --hidden-channels 128 \
        --batch-size 64 --learning-rate 1e-3 --schedule constant --warmup 0 --clip 0 --seed $seed --validate-every 500 --no-report --run "$tmp/run-$seed"
    tail -2 "$tmp/run-$seed/metrics.csv"; cp "$tmp/run-$seed/metrics.csv" "$out/metrics-$seed.csv"
done
} > "$out/log.txt" 2>&1
