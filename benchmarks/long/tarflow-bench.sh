#!/usr/bin/env bash
# Speed of TarFlow on the GPU: training steps in fp32, bf16, compiled; sampling throughput at batch 64 and 512.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
out=$OUT/tarflow-bench; mkdir -p "$out"
DEVICE=${DEVICE:-cuda}; ROUNDS=${ROUNDS:-9}; SAMPLES=${SAMPLES:-64 512}; CHANNELS=${CHANNELS:-64 128}; SETTINGS=${SETTINGS:-fp32 bf16 bf16+compile}
{
python benchmarks/tarflow.py --device "$DEVICE" --rounds "$ROUNDS" --channels $CHANNELS --samples $SAMPLES --tasks score sample
python benchmarks/tarflow.py --device "$DEVICE" --rounds "$ROUNDS" --channels $CHANNELS --settings $SETTINGS --tasks train
} > "$out/log.txt" 2>&1
