#!/bin/bash
# Trains on several GPUs or nodes under SLURM, one process per GPU:
#
#   sbatch --nodes=4 launch/slurm.sh --config=configs/resnet18.py --workdir=/shared/runs/resnet18
#
# Needs: the workdir, the datasets and this repository (submit from its root) on a file system that all nodes
# see, and the Python environment in $VENV (default .venv; made where nvidia-smi answers, or with
# requirements.txt: made on a login node it trains on CPUs). Nodes must reach each other by TCP on any port.
# Change --ntasks-per-node and --gpus-per-node together, and --cpus-per-task and --time to what the cluster has.
# One process for all GPUs of a node: --ntasks-per-node=1, the rest as it is.
#
# Three minutes before the time limit SLURM sends SIGTERM; the run saves its step and ends with code 143, and
# this script puts the job back into the queue, where it continues. A preempted job or a lost node comes back
# in the same way, from the last checkpoint (--config.checkpoint.every_steps).
#SBATCH --job-name=train
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}" || exit 1
trap '' TERM # for the processes that srun starts, not for this script
# All nodes must see it; without it several machines have none. Of this job alone (also once requeued): the
# processes of a job wait for each other where another job's writing lets some of them find a program there.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/runs/.compilation/$SLURM_JOB_ID}"

# train.py finds the other processes by the variables that srun sets. Once one fails, the others end.
# Since SLURM 22.05 srun does not inherit --cpus-per-task.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 --wait=60 \
  "${VENV:-.venv}/bin/python" train.py "$@"
code=$?
# Not a job that scancel ends: it is no longer RUNNING.
if [ "$code" -eq 143 ] && [ "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
else
  rm -rf "runs/.compilation/$SLURM_JOB_ID" # no other job reads it
fi
exit "$code"
