#!/usr/bin/env bash
# Two epochs of a narrow ResNet-18 on three fifths of CIFAR-10, killed on the way, continued and evaluated.
set -euo pipefail
work=$1
command=(.venv/bin/python train.py --config=configs/resnet18.py --workdir="$work/resnet18"
  --config.dataset.data_dir=../shared/data/tfds --config.model.width=8 --config.epochs=2
  --config.batch_size=128 --config.schedule.warmup_epochs=0.5
  --config.dataset.validation=0.4 --config.checkpoint.every_steps=100)
"${command[@]}" &
pid=$!
until compgen -G "$work/resnet18/checkpoints/last/*/commit_success.txt" > /dev/null; do
  kill -0 $pid
  sleep 1
done
kill -KILL $pid
wait $pid || true
"${command[@]}"
.venv/bin/python .ci/check_results.py "$work/resnet18" test_accuracy 0.5
.venv/bin/python evaluate.py --workdir="$work/resnet18" --predictions="$work/predictions.csv"
test "$(wc -l < "$work/predictions.csv")" -eq 10001
