#!/usr/bin/env bash
# SLURM: one task per GPU. Before its time is up the job gets SIGUSR1, saves, and is queued again; it goes on from there.
#   sbatch configs/launch/slurm.sh --config configs/sft.yaml --paths.out /shared/runs/sft
#SBATCH --job-name=earwitness
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
# SIGUSR1 saves and calls `scontrol requeue`; the same command continues.
srun --kill-on-bad-exit=1 lightning run -- \
  fit --trainer.strategy "${STRATEGY:-ddp}" "$@"
