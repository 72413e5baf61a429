#!/usr/bin/env bash
# Glow on MNIST: 300 s of training (2 levels of 16 steps, width 192), bits/dim, pictures of everything one can do with it, quality.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/glow-mnist; mkdir -p "$out"; run=$(mktemp -d)/glow-mnist
MINUTES=${MINUTES:-5.0}; SIZE=${SIZE:---model-steps 16 --hidden-channels 192}; N=${N:-2000}; LIMIT=${LIMIT:-10000}; STEPS=${STEPS:-300}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train glow "$DATA/mnist" --minutes "$MINUTES" --levels 2 $SIZE --reversible False --alpha 1e-6 \
    --learning-rate 2e-3 --batch-size 128 --precision bf16-mixed --validate-every 500 --no-report --run "$run"
tail -2 "$run/metrics.csv"
python -m steadyflow evaluate "$run" --limit "$LIMIT"
python -m steadyflow sample "$run" -n 60 --temperature 0.9 --out "$out/glow-mnist.png"
python -m steadyflow sample "$run" --sweep 0.5 0.7 0.8 0.9 1 --out "$out/glow-mnist-temperature.png"
python -m steadyflow reconstruct "$run" --out "$out/glow-mnist-reconstruction.png"
python -m steadyflow manipulate "$run" --with 9 --without 4 --examples 4 6 19 24 27 33 --strengths -1 -0.5 0 0.5 1 1.5 --out "$out/glow-mnist-attribute.png"
python -m steadyflow complete "$run" --known top --steps "$STEPS" --draws 3 --examples 0 1 2 3 4 5 6 7 8 9 --out "$out/glow-mnist-completion.png"
python -m steadyflow interpolate "$run" --from 3 --to 7 --out "$out/glow-mnist-interpolation.png"
python -m steadyflow quality "$run" -n "$N"
python -m steadyflow quality "$run" -n "$N" --temperature 0.9
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
