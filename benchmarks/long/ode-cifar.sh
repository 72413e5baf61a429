#!/usr/bin/env bash
# Diffusion on the CIFAR-10 subset: 260 s of training, likelihood on 200 test images, quality over evaluations. Ends within about 410 s.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/ode-cifar; mkdir -p "$out"; run=$(mktemp -d)/diffusion-cifar
MINUTES=${MINUTES:-4.2}; LIMIT=${LIMIT:-200}; N=${N:-1000}; SIZE=${SIZE:---hidden-channels 96 --blocks 2}; BATCH=${BATCH:-128}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train diffusion "$DATA/cifar10_subset/cifar10_subset.npz" --conditional --minutes "$MINUTES" $SIZE \
    --learning-rate 6e-4 --batch-size "$BATCH" --precision bf16-mixed --validate-every 500 --no-report --run "$run"
tail -3 "$run/metrics.csv"
python benchmarks/evaluations.py "$run" --n "$N" --samplers dpm++2m heun ddim --epochs 10 --out "$out"
python -m steadyflow evaluate "$run" --limit "$LIMIT" --errors 16 --batch-size 200
python -m steadyflow sample "$run" -n 100 --out "$out/diffusion-cifar-gpu.png"
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
