#!/usr/bin/env bash
# Plain VAE, Glow and f-VAE of 1,150,000 parameters on the CIFAR-10 subset, 102 s of training each; ends within about 400 s.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/fvae-cifar; mkdir -p "$out"
MINUTES=${MINUTES:-1.7}; MORE=${MORE:-}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -u benchmarks/autoencoders.py "$DATA/cifar10_subset/cifar10_subset.npz" --minutes "$MINUTES" $MORE --out "$out"
} > "$out/log.txt" 2>&1
