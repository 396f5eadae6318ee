#!/bin/sh
# The build stage of every image: /opt/venv from the lock. The same lock on the same base gives the same bytes.
set -eu
umask 022
export PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 LC_ALL=C.UTF-8
cd /context

if [ -s extra-ca.crt ]; then # a proxy's certificate, for pip and this stage only
  cat /etc/ssl/certs/ca-certificates.crt extra-ca.crt > /tmp/ca.pem
  export PIP_CERT=/tmp/ca.pem
fi

python3 -m venv /opt/pip # what is shipped has no pip
python3 -m venv --without-pip /opt/venv
/opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes --only-binary=:all: \
  --find-links . -r requirements.lock

packages=$(echo /opt/venv/lib/python3.*/site-packages)
find "$packages" -type d \( -name tests -o -path '*/onnx/backend/test' \) -prune -exec rm -rf {} + # a sixth of the size
# Bytecode that holds no time; torch ships a file that only a newer Python compiles.
/opt/venv/bin/python -m compileall -q -f -j 1 --invalidation-mode unchecked-hash "$packages" || echo "not all compiled"
