#!/usr/bin/env bash
# TarFlow on MNIST with normal noise (sigma 0.1), class-conditional, the authors' sizes (patch 4, 128 channels, 4 x 4): samples before and after denoising, guided, per class.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/tarflow-noise; mkdir -p "$out"; run=$(mktemp -d)/tarflow-noise
MINUTES=${MINUTES:-4.5}; SIZE=${SIZE:---patch-size 4 --channels 128 --blocks 4 --layers-per-block 4}; N=${N:-100}; BATCH=${BATCH:-128}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train tarflow "$DATA/mnist" --conditional --minutes "$MINUTES" $SIZE --sigma 0.1 --validation 0.02 \
    --learning-rate 1.5e-3 --betas 0.9 0.95 --warmup 100 --batch-size "$BATCH" --precision bf16-mixed --validate-every 100000 --no-report --run "$run"
tail -3 "$run/metrics.csv"
sample() { python -m steadyflow sample "$run" -n "$N" --out "$out/$1.png" "${@:2}"; }
sample noisy
sample denoised --denoise
sample guided-linear --denoise --guidance 1
sample guided-variance --denoise --guidance 1 --rule variance
sample sevens --denoise --label 7 --sampler windowed --tolerance 1e-3
sample attention --denoise --guidance 0.5 --attention-temperature 0.5
python - "$run/model" "$DATA/mnist" "$out" <<'P'
import sys, torch
from steadyflow import TarFlow, data
from steadyflow.report.images import denoising
device = "cuda" if torch.cuda.is_available() else "cpu"
model = TarFlow.from_pretrained(sys.argv[1]).to(device)
denoising(model, sys.argv[3] + "/before-and-after.png")
test = data.open(sys.argv[2]).test
x, y = test.x[:2000], test.y[:2000]
torch.manual_seed(0)
right = sum(int((model.predict_proba(a.to(device)).argmax(1).cpu() == b).sum()) for a, b in zip(x.split(500), y.split(500)))
print(f"predict_proba with noise: {right} of {len(x)}")
P
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
