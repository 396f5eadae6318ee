#!/bin/sh
# Measure the model beside this script by WebGPU; writes result.json. The venv is made once.
set -eu
cd "$(dirname "$0")"
digest=$(sha256sum < requirements.lock)
if [ "$(cat venv/ready 2>/dev/null || true)" != "$digest" ]; then
  rm -rf venv
  python3.11 -m venv venv
  venv/bin/python -m pip install --disable-pip-version-check --no-input \
    --no-deps --require-hashes --only-binary=:all: -r requirements.lock
  echo "$digest" > venv/ready
fi
HF_HUB_OFFLINE=1 ORT_DISABLE_TELEMETRY=1 exec venv/bin/python -m onnxmake.model.bundled .
