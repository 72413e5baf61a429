#!/usr/bin/env bash
# Memory of a training step over depth on a GPU, stored and reversible, and the time of both. About two minutes.
set -u
: "${DATA:?}" "${OUT:?}"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
out=$OUT/glow-memory; mkdir -p "$out"
DEVICE=${DEVICE:-cuda}; DEPTHS=${DEPTHS:-8 16 32 64}
{
nvidia-smi --query-gpu=name --format=csv,noheader
python benchmarks/glow.py memory --device "$DEVICE" --depths $DEPTHS --systems steadyflow steadyflow-reversible
for depth in $(echo $DEPTHS | cut -d' ' -f1,3); do
    python benchmarks/glow.py time --device "$DEVICE" --depth $depth --rounds 9 --systems steadyflow steadyflow-reversible
done
} > "$out/log.txt" 2>&1
python - > "$out/replay.txt" 2>&1 <<'P'
import os, warnings, torch, steadyflow
warnings.simplefilter("always")
steps = int(os.environ.get("STEPS", 120))
for reversible in (False, True):
    for replay in ("off", "auto"):
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            r = steadyflow.fit("glow", "digits", model_options={"levels": 2, "steps": 16, "hidden_channels": 64, "reversible": reversible},
                               steps=steps, batch_size=64, replay=replay, progress=False, log_every=steps)
        print("reversible", reversible, "replay", replay, "seconds", round(r.seconds, 2), "validation", r.best_validation_loss,
              "drift", r.history[-2].get("drift"), [str(w.message)[:200] for w in said if "recorded" in str(w.message)], flush=True)
P
