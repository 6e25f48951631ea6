#!/usr/bin/env bash
# Training on all hosts of a TPU slice: one process a host, found by JAX itself. From the project's folder:
#
#   TPU=my-v6e-64 ZONE=us-east5-b scripts/tpu_pod.sh train --config=configs/imagenet_latent.py:b --workdir=/nfs/runs/latent_b
#
# --workdir is gs://BUCKET/RUN, or a folder that all hosts have mounted. Copies the last commit of the project to
# every host, installs it there with PYTHON (python3, 3.11 or newer), and runs the command; the same line goes on where it was.
set -euo pipefail
: "${TPU:?name the TPU: TPU=NAME}" "${ZONE:?name its zone: ZONE=ZONE}"
[ $# -gt 0 ] || { echo "usage: TPU=NAME ZONE=ZONE scripts/tpu_pod.sh train|pretrain --config=FILE --workdir=DIR [...]" >&2; exit 2; }
run=${GCLOUD:-gcloud}
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
archive=$(mktemp -d)/drifting.tar.gz
[ -z "$(git -C "$folder" status --porcelain)" ] || echo "tpu_pod.sh: changes that are not committed stay here" >&2
git -C "$folder" archive --format=tar.gz --output="$archive" HEAD
$run compute tpus tpu-vm scp "$archive" "$TPU:drifting.tar.gz" --zone="$ZONE" --worker=all
quoted=$(printf ' %q' "$@")
$run compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  set -e
  mkdir -p drifting && tar -xzf drifting.tar.gz -C drifting && cd drifting
  [ -x .venv/bin/drifting ] || { ${PYTHON:-python3} -m venv .venv && .venv/bin/pip install --quiet -c constraints.txt -e '.[tpu,gcs]'; }
  exec .venv/bin/drifting$quoted --coordinator=auto"
