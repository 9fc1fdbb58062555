#!/usr/bin/env bash
# The same command on each of NODES nodes, in any order; they meet at MAIN, an address of one of them that all can reach.
# The folder of the run is on a file system that all of them see.
#   MAIN=10.0.0.1 JOB=sft-1 configs/launch/two_nodes.sh --config configs/sft.yaml --paths.out /shared/runs/sft
# LOCAL is this node's own address, where the others do not know it by its name. A node that is lost and comes back
# with the same command is taken in again, as often as RESTARTS says.
set -euo pipefail
lightning run --devices "${DEVICES:-8}" --num-nodes "${NODES:-2}" \
  --main-address "${MAIN:?address of one node}" --main-port "${PORT:-29400}" --rdzv-id "${JOB:?name of this run}" \
  ${LOCAL:+--local-address "$LOCAL"} --max-restarts "${RESTARTS:-3}" -- \
  fit --trainer.strategy "${STRATEGY:-ddp}" "$@"
