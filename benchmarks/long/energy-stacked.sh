#!/usr/bin/env bash
# Stacked MNIST, 1,000 modes: the maximum-entropy generator beside no entropy and a plain GAN (benchmarks/stacked.py).
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
out=$OUT/energy-stacked; mkdir -p "$out"; M=${MINUTES:-4.5}; H=$(python -c "print($M / 2 - 0.3)")
args="${MORE:-} --source $DATA/mnist --channels ${CHANNELS:-32} --batch-size ${BATCH:-64} --stacks ${STACKS:-100000} --learning-rate 2e-4"
python benchmarks/stacked.py $args --models mutual-information --minutes "$M" --out "$out/mi" > "$out/a.txt" 2>&1 & A=$!
python benchmarks/stacked.py $args --models none GAN --minutes "$H" --out "$out/others" > "$out/b.txt" 2>&1 & B=$!
wait $A $B
cat "$out"/a.txt "$out"/b.txt
