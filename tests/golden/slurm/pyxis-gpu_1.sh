#!/bin/bash
#SBATCH --account=research
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --job-name=septet-cne_n-smoke
#SBATCH --mem=64G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/data/runs/cne_n/smoke/20260101-000000-abcd/slurm/%j.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
#SBATCH --time=0-12:00:00
# command: septet fit -c configs/cne_n/smoke.yaml --trainer.devices=1 --trainer.num_nodes=1
# commit: abc123
set -euo pipefail
cd /data
export SEPTET_LAUNCHER=slurm
export SEPTET_MAX_RESTARTS=10
export SEPTET_REQUEUE=1
export SEPTET_REQUEUE_SIGNAL=SIGUSR1
export SEPTET_RUNS=/data/runs
export SEPTET_RUN_ID=20260101-000000-abcd
restart="${SLURM_RESTART_COUNT:-0}"
set --
log=/data/runs/cne_n/smoke/20260101-000000-abcd/slurm/"${SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}_r$restart.log"
srun --kill-on-bad-exit=1 --container-image=septet.sqsh septet fit -c configs/cne_n/smoke.yaml --trainer.devices=1 --trainer.num_nodes=1 "$@" >>"$log" 2>&1 &
child=$!
trap 'kill -TERM "$child" 2>/dev/null || true' TERM
trap 'kill -USR1 "$child" 2>/dev/null || true' USR1
code=0
while true; do
  wait "$child" && code=0 || code=$?
  kill -0 "$child" 2>/dev/null || break
done
wait "$child" && code=0 || code=$?
exit "$code"