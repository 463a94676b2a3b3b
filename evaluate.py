"""Evaluates a checkpoint of a run.

  python evaluate.py --workdir=DIR [--checkpoint=best|last|STEP] [--split=test] [--predictions=FILE.csv]

Writes evaluations/<checkpoint>-<dataset>-<split>.json in the workdir, and two plots beside the run's.
"""

from pathlib import Path

from absl import app, flags

from training import command_line

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_CHECKPOINT = flags.DEFINE_string('checkpoint', 'best', 'best, last, or the step of one that is kept.')
_SPLIT = flags.DEFINE_string(
    'split',
    None,
    'val, test or another split of the dataset; default: test, or val where the run had no test.',
)
_DATASET = flags.DEFINE_string('dataset', None, "Another dataset with the same classes; default: the run's.")
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where the datasets lie now; default: where they lay then.')
_PREDICTIONS = flags.DEFINE_string('predictions', None, 'CSV file for id, label, predicted, confidence.')
flags.mark_flag_as_required('workdir')


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'unexpected argument {argv[1]!r}')
    with command_line.explained():
        command_line.prepare_jax()
        from training.evaluation import evaluate

        result = evaluate(
            Path(_WORKDIR.value),
            checkpoint=_CHECKPOINT.value,
            split=_SPLIT.value,
            dataset=_DATASET.value,
            data_dir=_DATA_DIR.value,
            predictions=_PREDICTIONS.value,
        )
    print(f'{result["dataset"]} {result["split"]}, {result["count"]:,} images, step {result["step"]:,}')
    print(f'loss                {result["loss"]:.4f}')
    print(f'top-1 accuracy      {result["accuracy"]:.2%}')
    if 'top5_accuracy' in result:
        print(f'top-5 accuracy      {result["top5_accuracy"]:.2%}')
    print(f'calibration error   {result["expected_calibration_error"]:.2%}')


if __name__ == '__main__':
    app.run(main, flags_parser=command_line.parse_flags)
