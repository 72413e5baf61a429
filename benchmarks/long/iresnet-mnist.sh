#!/usr/bin/env bash
# residual flow on MNIST: training, evaluation of the whole test set, samples
set -euo pipefail
out=$OUT/iresnet-mnist; mkdir -p "$out"
export OMP_NUM_THREADS=1
steadyflow train iresnet "$DATA/mnist" --minutes "${MINUTES:-4.6}" --alpha 1e-6 --scales 3 --blocks "${BLOCKS:-6}" --hidden-channels "${WIDTH:-128}" \
    --dense-blocks 4 --learning-rate 3e-3 --batch-size "${BATCH:-256}" --validate-every 400 --no-report --run "$out/run"
steadyflow evaluate "$out/run" ${LIMIT:+--limit $LIMIT} --batch-size 500 --json > "$out/evaluation.json"
steadyflow sample "$out/run" -n 64 --temperature 0.9 --out "$out/samples.png"
steadyflow evaluate "$out/run" --limit "${FEW:-500}" --draws 4 --batch-size 250 --json > "$out/evaluation-draws.json"
steadyflow sample "$out/run" -n 64 --out "$out/samples-1.png"
rm -f "$out"/run/checkpoint.safetensors
find "$out" -size +4M -delete
