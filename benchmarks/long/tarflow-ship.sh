#!/usr/bin/env bash
# Weights to ship: a class-conditional TarFlow on MNIST of 0.9 M parameters (3.6 MB); bits per dimension and Bayes' classifier on the full test set.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/tarflow-ship; mkdir -p "$out"; run=$(mktemp -d)/mnist-tarflow
MINUTES=${MINUTES:-4.9}; SIZE=${SIZE:---patch-size 2 --channels 96 --blocks 4 --layers-per-block 2}; LIMIT=${LIMIT:-10000}; N=${N:-100}; BATCH=${BATCH:-128}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train tarflow "$DATA/mnist" --conditional --minutes "$MINUTES" $SIZE --validation 0.02 \
    --learning-rate 2e-3 --betas 0.9 0.98 --warmup 100 --batch-size "$BATCH" --precision bf16-mixed --validate-every 100000 --no-report --run "$run"
tail -3 "$run/metrics.csv"
mkdir -p "$out/mnist-tarflow"; cp "$run/model/"* "$run/metrics.csv" "$run/config.yaml" "$out/mnist-tarflow/"
python -m steadyflow evaluate "$run" --limit "$LIMIT" --json
python -m steadyflow sample "$run" -n "$N" --out "$out/mnist-tarflow.png"
python -m steadyflow sample "$run" -n "$N" --temperature 0.9 --guidance 0.5 --out "$out/mnist-tarflow-guided.png"
python - "$run/model" "$DATA/mnist" "$LIMIT" <<'P'
import sys, torch, time
from steadyflow import TarFlow, data
device = "cuda" if torch.cuda.is_available() else "cpu"
model = TarFlow.from_pretrained(sys.argv[1]).to(device)
test = data.open(sys.argv[2]).test
x, y = test.x[: int(sys.argv[3])], test.y[: int(sys.argv[3])]
torch.manual_seed(0)
right, began = 0, time.time()
for a, b in zip(x.split(500), y.split(500)):
    right += int((model.predict_proba(a.to(device)).argmax(1).cpu() == b).sum())
print(f"predict_proba: {right} of {len(x)} right, {right / len(x):.4f}, {time.time() - began:.1f} s")
P
} > "$out/log.txt" 2>&1
