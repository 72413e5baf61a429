#!/usr/bin/env bash
# TarFlow on MNIST, unconditional, uniform dequantisation: about 310 s of training, bits per dimension on the full test set, pictures.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/tarflow-mnist; mkdir -p "$out"; run=$(mktemp -d)/tarflow-mnist
MINUTES=${MINUTES:-5.2}; SIZE=${SIZE:---patch-size 2 --channels 128 --blocks 6 --layers-per-block 3}; LIMIT=${LIMIT:-10000}; N=${N:-64}; BATCH=${BATCH:-128}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train tarflow "$DATA/mnist" --minutes "$MINUTES" $SIZE --validation 0.02 \
    --learning-rate 2e-3 --betas 0.9 0.98 --warmup 100 --batch-size "$BATCH" --precision bf16-mixed --validate-every 100000 --no-report --run "$run"
tail -3 "$run/metrics.csv"
python -m steadyflow evaluate "$run" --limit "$LIMIT" --json
python -m steadyflow sample "$run" -n "$N" --out "$out/tarflow-mnist.png"
python -m steadyflow sample "$run" -n "$N" --temperature 0.9 --out "$out/tarflow-mnist-09.png"
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
