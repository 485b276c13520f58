#!/usr/bin/env bash
# Checks what is in deploy/ without a cluster, with the tools that are installed; check.py says what.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHONPATH=. exec "${PYTHON:-python}" -m deploy.verify.check
