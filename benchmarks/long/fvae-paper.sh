#!/usr/bin/env bash
# The Gaussian decoder of the paper: VAE and f-VAE on MNIST, f-VAE on the CIFAR-10 subset, 102 s of training each; ends within about 400 s.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/fvae-paper; mkdir -p "$out"
MINUTES=${MINUTES:-1.7}; MORE=${MORE:-}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -u benchmarks/autoencoders.py "$DATA/mnist" --models vae-gaussian fvae-gaussian --minutes "$MINUTES" $MORE --out "$out/mnist"
python -u benchmarks/autoencoders.py "$DATA/cifar10_subset/cifar10_subset.npz" --models fvae-gaussian --minutes "$MINUTES" $MORE --out "$out/cifar"
} > "$out/log.txt" 2>&1
