#!/usr/bin/env bash
# One node, all its GPUs; a process that dies is started anew with the others, and the run goes on from its last
# checkpoint. The same command continues a run that was interrupted.
#   DEVICES=8 configs/launch/one_node.sh --config configs/sft.yaml --paths.out runs/sft
set -euo pipefail
lightning run --devices "${DEVICES:-8}" --max-restarts "${RESTARTS:-3}" -- \
  fit --trainer.strategy "${STRATEGY:-ddp}" "$@"
