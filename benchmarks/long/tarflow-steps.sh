#!/usr/bin/env bash
# 1,900 steps of batch 128 at 64 channels (patch 4, 4 x 4), fp32, as the authors' code was run: bits per dimension with the pixels as they are and made normal; how many of 4,096 draws are not finite.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
out=$OUT/tarflow-steps; mkdir -p "$out"; runs=$(mktemp -d)
STEPS=${STEPS:-1900}; LIMIT=${LIMIT:-10000}; N=${N:-4096}
one() {
python -m steadyflow train tarflow "$DATA/mnist" --steps "$STEPS" --minutes 5.5 --patch-size 4 --channels 64 --blocks 4 --layers-per-block 4 "${@:2}" --validation 0.02 \
    --learning-rate 1e-3 --betas 0.9 0.95 --weight-decay 1e-4 --warmup 100 --batch-size 128 --validate-every 100000 --no-report --run "$runs/$1"
tail -2 "$runs/$1/metrics.csv"
python -m steadyflow evaluate "$runs/$1" --limit "$LIMIT" --json
python - "$runs/$1/model" "$N" <<'P'
import sys, torch
from steadyflow import TarFlow
device = "cuda" if torch.cuda.is_available() else "cpu"
model = TarFlow.from_pretrained(sys.argv[1]).to(device)
torch.manual_seed(0)
n = int(sys.argv[2])
x = model.decode_with_report(torch.randn(n, 1, 28, 28, device=device)).x
bad = int((~x.flatten(1).isfinite().all(1)).sum())
print(f"not finite: {bad} of {n}; largest {float(x.abs().max()):.3g}")
P
}
{ nvidia-smi --query-gpu=name --format=csv,noheader; one plain --no-gaussianize; } > "$out/plain.txt" 2>&1 &
{ one normal; } > "$out/normal.txt" 2>&1 &
wait
mkdir -p "$out/normal"; cp "$runs/normal/model/"* "$out/normal/"
