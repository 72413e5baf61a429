#!/usr/bin/env bash
# Flow matching on MNIST: 230 s of training, likelihood on 300 test images, quality over evaluations. Ends within about 400 s.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/ode-mnist; mkdir -p "$out"; run=$(mktemp -d)/flow-matching-mnist
MINUTES=${MINUTES:-3.8}; LIMIT=${LIMIT:-300}; N=${N:-2000}; SIZE=${SIZE:---hidden-channels 64 --blocks 2}; BATCH=${BATCH:-256}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train flow-matching "$DATA/mnist" --conditional --minutes "$MINUTES" $SIZE \
    --learning-rate 1e-3 --batch-size "$BATCH" --precision bf16-mixed --validate-every 500 --no-report --run "$run"
tail -3 "$run/metrics.csv"
python benchmarks/evaluations.py "$run" --n "$N" --samplers heun euler dpm++2m --epochs 3 --out "$out"
python -m steadyflow evaluate "$run" --limit "$LIMIT" --errors 32 --batch-size 300
python -m steadyflow sample "$run" -n 100 --out "$out/flow-matching-mnist-gpu.png"
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
