#!/usr/bin/env bash
# Glow on the CIFAR-10 subset (9,000 training images): 310 s, 3 levels of 16 steps, width 256.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/glow-cifar; mkdir -p "$out"; run=$(mktemp -d)/glow-cifar
MINUTES=${MINUTES:-5.2}; SIZE=${SIZE:---levels 3 --model-steps 16 --hidden-channels 256}; N=${N:-2000}; LIMIT=${LIMIT:-2000}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train glow "$DATA/cifar10_subset/cifar10_subset.npz" --minutes "$MINUTES" $SIZE --reversible False \
    --learning-rate 1e-3 --batch-size 128 --precision bf16-mixed --validate-every 280 --no-report --run "$run"
tail -2 "$run/metrics.csv"
python -m steadyflow evaluate "$run" --limit "$LIMIT"
python -m steadyflow sample "$run" -n 60 --temperature 0.8 --out "$out/glow-cifar.png"
python -m steadyflow reconstruct "$run" --out "$out/glow-cifar-reconstruction.png"
python -m steadyflow interpolate "$run" --from 3 --to 7 --out "$out/glow-cifar-interpolation.png"
python -m steadyflow quality "$run" -n "$N"
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
