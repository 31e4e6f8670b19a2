#!/usr/bin/env bash
# Every check that needs a GPU, within 8 minutes on one H200 with 16 cores.
#
#   benchmarks/gpu.sh OUT          into the folder OUT, one JSON file and one log a part
#   benchmarks/gpu.sh OUT --tiny   the same with tiny models, in some minutes on a CPU
#
# A part that fails or takes too long does not end the others; parts.jsonl says how each ended.
# Needs torch, timm, zarr, polars and small packages: pip install -c constraints.txt -e .
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh OUT [--tiny]}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
: > "$out/parts.jsonl"

part() {  # NAME SECONDS COMMAND...
    local name=$1 limit=$2 begun=$SECONDS
    shift 2
    timeout --kill-after 5 "$limit" "$@" > "$out/$name.log" 2>&1
    local rc=$?
    echo "{\"part\": \"$name\", \"rc\": $rc, \"seconds\": $((SECONDS - begun))}" | tee -a "$out/parts.jsonl"
}
measure() {  # NAME SECONDS SCRIPT OPTIONS...
    local name=$1 limit=$2 script=$3
    shift 3
    part "$name" "$limit" "$python" "benchmarks/$script.py" "$@" --out "$out/$name.json"
}

if [ "${2:-}" = --tiny ]; then
    limit=240
    small=(--model test_vit --image-size 160)
    check=(--model test_efficientnet --student test_resnet --image-size 64 --images 80 --count 256)
    measure extraction-global $limit extraction "${small[@]}" --images 24 --batch 8 --rounds 1
    measure extraction-tokens $limit extraction "${small[@]}" --images 24 --batch 8 --rounds 1 --tokens
    measure training $limit training --teacher test_vit --student test_vit --image-size 160 \
        --images 40 --batch 8 --steps 2 --rounds 1
else
    limit=28
    check=()
    for size in small base; do
        model=vit_${size}_patch14_dinov2
        views=(--model "$model" --image-size 224 --batch 256 --precision bfloat16 --rounds 3)
        measure "extraction-$size-global" 40 extraction "${views[@]}" --images 4096
        measure "extraction-$size-tokens" 40 extraction "${views[@]}" --images 1024 --tokens
    done
    step=(--teacher vit_small_patch14_dinov2 --images 4096 --batch 1024 --precision bfloat16)
    measure training 50 training "${step[@]}" --steps 20
    measure training-compiled 65 training "${step[@]}" --steps 20 --compile
fi
for name in embeddings memory sne; do
    measure "$name" $limit gpu_checks "$name" "${check[@]}"
done
for name in resume torchrun; do
    # Several processes one after the other.
    measure "$name" $((2 * limit)) gpu_checks "$name" "${check[@]}"
done
! grep -qv '"rc": 0' "$out/parts.jsonl"
