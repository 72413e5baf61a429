#!/usr/bin/env bash
# RealNVP on MNIST at the budget of glow-mnist.sh.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/realnvp-mnist; mkdir -p "$out"; run=$(mktemp -d)/realnvp-mnist
MINUTES=${MINUTES:-5.0}; SIZE=${SIZE:---hidden-channels 64 --blocks 4}; N=${N:-2000}; LIMIT=${LIMIT:-10000}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train realnvp "$DATA/mnist" --minutes "$MINUTES" $SIZE --alpha 1e-6 \
    --learning-rate 2e-3 --batch-size 128 --precision bf16-mixed --validate-every 500 --no-report --run "$run"
tail -2 "$run/metrics.csv"
python -m steadyflow evaluate "$run" --limit "$LIMIT"
python -m steadyflow sample "$run" -n 60 --temperature 0.9 --out "$out/realnvp-mnist.png"
python -m steadyflow quality "$run" -n "$N"
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
