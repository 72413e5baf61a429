#!/usr/bin/env bash
# MNIST by an invertible classifier, and by a hybrid
set -euo pipefail
out=$OUT/iresnet-classifier; mkdir -p "$out"
export OMP_NUM_THREADS=1
steadyflow train iresnet "$DATA/mnist" --conditional --task classifier --padding 7 --scales 3 --blocks "${BLOCKS:-4}" --hidden-channels "${WIDTH:-64}" \
    --minutes "${MINUTES:-2.2}" --learning-rate 2e-3 --batch-size "${BATCH:-256}" --validate-every 200 --no-report --run "$out/classifier"
steadyflow evaluate "$out/classifier" ${LIMIT:+--limit $LIMIT} --json > "$out/classifier.json"
steadyflow train iresnet "$DATA/mnist" --conditional --task hybrid --alpha 1e-6 --scales 3 --blocks "${BLOCKS:-4}" --hidden-channels "${WIDTH:-64}" \
    --dense-blocks 2 --minutes "${MINUTES:-2.8}" --learning-rate 2e-3 --batch-size "${BATCH:-256}" --validate-every 400 --no-report --run "$out/hybrid"
steadyflow evaluate "$out/hybrid" ${LIMIT:+--limit $LIMIT} --batch-size 500 --json > "$out/hybrid.json"
steadyflow sample "$out/hybrid" -n 60 --out "$out/hybrid-samples.png" || true
rm -f "$out"/*/checkpoint.safetensors
find "$out" -size +4M -delete
