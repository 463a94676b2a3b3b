#!/bin/bash
# Trains on several GPUs or machines with Open MPI, one process per GPU:
#
#   launch/mpirun.sh -n 8 -- --config=configs/resnet18.py
#   launch/mpirun.sh -n 16 --hostfile HOSTS -- --config=configs/resnet18.py --workdir=/shared/runs/resnet18
#
# What stands before -- goes to mpirun, the rest to train.py. Needs: mpirun, ssh between the machines, and on
# each of them this repository (start from its root), the Python environment in $VENV (default .venv), the
# datasets, and the workdir on a file system that all see. MPI only starts the processes: JAX talks by TCP,
# or between GPUs by NCCL. Open MPI 5 does not tell the processes the address of the first: add
# --coordinator=HOST:PORT after --, with the first machine of HOSTS and any port that is free there.
set -u
options=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
  options+=("$1")
  shift
done
if [ "$#" -eq 0 ]; then
  echo 'usage: launch/mpirun.sh -n PROCESSES [mpirun options] -- --config=FILE [train.py options]' >&2
  exit 2
fi
shift
# No binding: each process uses all cores that its machine's data pipeline needs.
exec mpirun --bind-to none "${options[@]}" "${VENV:-.venv}/bin/python" train.py "$@"
