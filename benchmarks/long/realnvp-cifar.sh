#!/usr/bin/env bash
# RealNVP on the CIFAR-10 subset at the budget of glow-cifar.sh.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/realnvp-cifar; mkdir -p "$out"; run=$(mktemp -d)/realnvp-cifar
MINUTES=${MINUTES:-5.2}; SIZE=${SIZE:---scales 2 --hidden-channels 64 --blocks 6}; N=${N:-2000}; LIMIT=${LIMIT:-2000}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train realnvp "$DATA/cifar10_subset/cifar10_subset.npz" --minutes "$MINUTES" $SIZE \
    --learning-rate 1e-3 --batch-size 128 --precision bf16-mixed --validate-every 280 --no-report --run "$run"
tail -2 "$run/metrics.csv"
python -m steadyflow evaluate "$run" --limit "$LIMIT"
python -m steadyflow sample "$run" -n 60 --temperature 0.8 --out "$out/realnvp-cifar.png"
python -m steadyflow quality "$run" -n "$N"
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
