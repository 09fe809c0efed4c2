#!/usr/bin/env bash
# What only a CUDA device can show: the gpu tests, then steps in float32 and bfloat16 beside
# ordinary ones. Results go to the folder given, or to results/gpu.
#
#     scripts/gpu.sh [folder]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-results/gpu}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

"$python" -m pytest -m gpu tests/clipping/test_cuda.py | tee "$out/tests.txt"
step() {
    "$python" -m dpexp.cli.main bench step device=cuda styles=flat,layerwise \
        output="$out/$precision" precision="$precision" "$@"
}
for precision in float32 bf16; do
    step model.name=vit_base_patch16_224 batch=64 algorithms=auto,mixed_ghost
    step model.name=beit_large_patch16_224 batch=16
    step model.name=resnet50 model.image_size=224 batch=64
    step model.name=vgg19_cifar batch=256 algorithms=auto,mixed_ghost
    step model.name=convnext_tiny model.image_size=224 batch=64
    "$python" scripts/bench_page.py "$out/$precision"
done
