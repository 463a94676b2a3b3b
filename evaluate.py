"""Evaluates a checkpoint of a run.

  python evaluate.py --workdir=DIR [--split=test] [--dataset=NAME] [--predictions=FILE.csv]
  python evaluate.py --workdir=DIR --pairs=FILE [--split=… | --folder=PHOTOS] [--scores=FILE.csv] [--flip]
  python evaluate.py --workdir=DIR --folder=PHOTOS [--predictions=FILE.csv]       (what is on them?)
  python evaluate.py --workdir=DIR --features=FILE.npy [--split=ver_data] [--flip]
  python evaluate.py --workdir=DIR --distortions=FOLDER [--predictions=FILE.csv]

Each also takes [--checkpoint=best|best_verification|last|STEP], and all but --folder alone [--data_dir=DIR].
Writes evaluations/<checkpoint>-<dataset>-<split>.json, <checkpoint>-<pairs>[-<images>][-flip].json or
distortions-<checkpoint>-<folder>.json in the workdir, and plots beside the run's.
"""

from functools import partial
from pathlib import Path

from absl import app, flags

from training import ConfigError, command_line
from training.host_memory import lack_of_memory, use_huge_pages

SHOWN = 20  # classified images

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_CHECKPOINT = flags.DEFINE_string(
    'checkpoint', 'best', 'best, last, best_verification, or the step of one kept.'
)
_SPLIT = flags.DEFINE_string(
    'split',
    None,
    'val, test or another split of the dataset, for --pairs by the name that it has there; default: test, or '
    'val where the run had no test; for --pairs (and --features, where the run compared pairs) the one of '
    'config.verification.split.',
)
_DATASET = flags.DEFINE_string('dataset', None, "Another dataset with the same classes; default: the run's.")
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where the datasets lie now; default: where they lay then.')
_PREDICTIONS = flags.DEFINE_string(
    'predictions',
    None,
    'CSV file for id, label, predicted, confidence; of --folder for id, predicted, class, confidence; of '
    '--distortions for id, label (as predicted).',
)
_PAIRS = flags.DEFINE_string('pairs', None, 'File of pairs of images, with labels 0 and 1 or without.')
_SCORES = flags.DEFINE_string('scores', None, "CSV file for ID and Label: the pairs' rows and similarities.")
_FOLDER = flags.DEFINE_string(
    'folder', None, 'Folder of other images, of any size, to classify or that --pairs is about.'
)
_FEATURES = flags.DEFINE_string('features', None, ".npy file for the images' features; ids go to .ids.txt.")
_FLIP = flags.DEFINE_bool(
    'flip', None, 'Average features over an image and its mirror image; default: as trained.'
)
_DISTORTIONS = flags.DEFINE_string(
    'distortions', None, 'Folder of .npy files of distorted images in five severities, as CIFAR-10-C has.'
)
_joined = command_line.define_process_flags()
flags.mark_flag_as_required('workdir')

# What these flags, the first that is given, and none of them know; any other would be ignored.
_USES = {
    'pairs': ('split', 'folder', 'scores', 'flip', 'data_dir'),
    'features': ('split', 'flip', 'data_dir'),
    'distortions': ('predictions', 'data_dir'),
    'folder': ('predictions',),
    '': ('split', 'dataset', 'predictions', 'data_dir'),
}


def main(argv: list[str]) -> None:
    way_out = f'Write a smaller batch_size into {Path(_WORKDIR.value) / "config.json"}'
    with command_line.explained(partial(lack_of_memory, way_out=way_out), _in_own_flags):
        if len(argv) > 1:
            raise ConfigError(f'unexpected argument {argv[1]!r}')
        _check_flags()
        command_line.prepare_jax()
        with _joined():
            _run()


def _in_own_flags(message: str) -> str:
    message = message.replace('--config.dataset.data_dir=', '--data_dir=')
    return message + (' (--config.… are flags of train.py.)' if '--config.' in message else '')


def _check_flags() -> None:
    names = {*filter(None, _USES), *(name for known in _USES.values() for name in known)}
    given = [name for name in sorted(names) if flags.FLAGS[name].value is not None]
    use = next((name for name in _USES if name in given), '')
    for name in given:
        if flags.FLAGS[name].value == '':
            raise ConfigError(f'--{name}= is empty')
        if name == 'split' and _FOLDER.value:
            raise ConfigError('--folder and --split: the images are in one of them')
        if name not in (use, *_USES[use]):
            others = ' or '.join(f'--{other}' for other, known in _USES.items() if other and name in known)
            raise ConfigError(f'--{name} does not go with --{use}' if use else f'--{name} needs {others}')


def _run() -> None:
    common = {'checkpoint': _CHECKPOINT.value, 'data_dir': _DATA_DIR.value}
    if _PAIRS.value is not None:
        _verify(common)
    elif _FEATURES.value is not None:
        _export_features(common)
    elif _DISTORTIONS.value is not None:
        _evaluate_distortions(common)
    elif _FOLDER.value is not None:
        _classify()
    else:
        _evaluate(common)


def _path(flag: flags.FlagHolder[str | None]) -> Path | None:
    return flag.value and Path(flag.value)


def _evaluate(common: dict) -> None:
    from training.evaluation import evaluate
    from training.evaluation_metrics import describe_accuracy

    predictions = _path(_PREDICTIONS)
    result = evaluate(
        Path(_WORKDIR.value), split=_SPLIT.value, dataset=_DATASET.value, predictions=predictions, **common
    )
    print(f'{result["dataset"]} {result["split"]}, {result["count"]:,} images, {_checkpoint(result)}')
    if predictions:
        print(f'predictions         {predictions}')
    if 'loss' not in result:
        print('no labels: nothing to compare with')
        return
    print(f'loss                {result["loss"]:.4f}')
    print(f'top-1 accuracy      {describe_accuracy(result["accuracy"], result["count"])}')
    if 'top5_accuracy' in result:
        print(f'top-5 accuracy      {result["top5_accuracy"]:.2%}')
    print(f'calibration error   {result["expected_calibration_error"]:.2%}')
    by_class = zip(result['per_class_accuracy'], result['class_names'], strict=True)
    known = [(accuracy, name) for accuracy, name in by_class if accuracy is not None]
    worst = ', '.join(f'{name} {accuracy:.1%}' for accuracy, name in sorted(known)[:3])
    print(f'lowest of a class   {worst}')
    _print_more()


def _print_more() -> None:
    folder = Path(_WORKDIR.value) / 'evaluations'
    if folder.exists():  # not in a workdir that cannot be written to
        print(f'more                {folder} and plots')


def _checkpoint(result: dict) -> str:
    chosen = ', CHOSEN ON TEST' if result.get('selected_on') == 'test' else ''
    return f'checkpoint {result["checkpoint"]} (step {result["step"]:,}{chosen})'


def _classify() -> None:
    from training.classifier import classify

    predictions = _path(_PREDICTIONS)
    workdir, folder = Path(_WORKDIR.value), Path(_FOLDER.value)
    rows = classify(workdir, folder, predictions, checkpoint=_CHECKPOINT.value)
    for name, _, class_name, confidence in rows[:SHOWN]:
        print(f'{confidence:7.2%}  {class_name:<20}  {name}')
    if len(rows) > SHOWN:
        print(f'… of {len(rows):,} images' + ('' if predictions else '; --predictions=FILE.csv writes all'))
    if predictions:
        print(f'predictions in {predictions}')


def _verify(common: dict) -> None:
    from training.verification import describe, verify

    scores = _path(_SCORES)
    result = verify(
        Path(_WORKDIR.value),
        pairs=_PAIRS.value,
        split=_SPLIT.value,
        folder=_FOLDER.value,
        flip=_FLIP.value,
        scores=scores,
        **common,
    )
    print(f'{result["file"]}, {result["pairs"]:,} pairs, {_checkpoint(result)}')
    if 'eer' in result:
        print(describe(result))
    if 'fold_accuracy' in result:
        mean, error = 100 * result['fold_accuracy'], 100 * result['fold_accuracy_error']
        print(f'accuracy over {len(result["fold_accuracies"])} folds {mean:.2f} +- {error:.2f} %')
    if 'eer' in result:
        _print_more()
    if scores:
        print(f'similarities in {scores}')


def _export_features(common: dict) -> None:
    from training.verification import export_features

    path = Path(_FEATURES.value)
    features = export_features(Path(_WORKDIR.value), path, split=_SPLIT.value, flip=_FLIP.value, **common)
    print(f'{features.shape[0]:,} features of {features.shape[1]} dimensions in {path}')


def _evaluate_distortions(common: dict) -> None:
    from training.distortions import evaluate_distortions

    predictions = _path(_PREDICTIONS)
    folder = Path(_DISTORTIONS.value)
    result = evaluate_distortions(Path(_WORKDIR.value), folder, predictions=predictions, **common)
    print(f'{result["folder"]}, {result["count"]:,} images, {_checkpoint(result)}')
    for name, accuracies in result.get('accuracies', {}).items():
        by_severity = ' '.join(f'{accuracy:7.2%}' for accuracy in accuracies)
        print(f'{name:24} {sum(accuracies) / len(accuracies):7.2%}   by severity {by_severity}')
    for name, key in (('mean', 'accuracy'), ('without distortion', 'clean_accuracy')):
        if key in result:
            print(f'{name:24} {result[key]:7.2%}')
    if 'accuracy' in result:
        _print_more()
    if predictions:
        print(f'predictions in {predictions}')


if __name__ == '__main__':
    use_huge_pages()
    app.run(main, flags_parser=command_line.parse_flags)
