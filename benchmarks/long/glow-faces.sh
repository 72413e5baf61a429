#!/usr/bin/env bash
# Glow on 64 x 64 grey faces of 5 bits: 310 s, 4 levels of 10 steps, width 192; the smile as an attribute, interpolations.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/glow-faces; mkdir -p "$out"; run=$(mktemp -d)/glow-faces
MINUTES=${MINUTES:-5.2}; SIZE=${SIZE:---levels 4 --model-steps 10 --hidden-channels 192}; N=${N:-500}; LIMIT=${LIMIT:-500}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python -m steadyflow train glow "$DATA/faces/lfw_faces_gray_64.npz" --label smile --bits 5 --minutes "$MINUTES" $SIZE --reversible False \
    --learning-rate 1e-3 --batch-size 64 --precision bf16-mixed --validate-every 400 --no-report --run "$run"
tail -2 "$run/metrics.csv"
python -m steadyflow evaluate "$run" --limit "$LIMIT"
python -m steadyflow sample "$run" -n 40 --temperature 0.7 --out "$out/glow-faces.png"
python -m steadyflow manipulate "$run" --with 1 --examples 1 2 3 5 8 13 --strengths -1.5 -1 -0.5 0 0.5 1 1.5 --out "$out/glow-faces-smile.png"
for pair in "3 7" "10 21" "30 44" "51 60" "72 81"; do
    set -- $pair
    python -m steadyflow interpolate "$run" --from $1 --to $2 --steps 9 --out "$out/glow-faces-$1-$2.png"
done
python -m steadyflow reconstruct "$run" --out "$out/glow-faces-reconstruction.png"
python -m steadyflow quality "$run" -n "$N" --temperature 0.7
} > "$out/log.txt" 2>&1
cp "$run/metrics.csv" "$run/config.yaml" "$out/"
