import json
import os
import signal
import struct
import sys
import time
from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from training import CheckpointError
from training.interruption import Interrupted
from training.run import run
from training.tracking import Tracker


@pytest.fixture(autouse=True)
def _wandb_folders(tmp_path_factory, monkeypatch):
    for name in ('DATA', 'CACHE', 'CONFIG'):
        monkeypatch.setenv(f'WANDB_{name}_DIR', str(tmp_path_factory.mktemp(name)))


def wandb_config(**changes):
    defaults = {'mode': 'disabled', 'project': 'tests', 'entity': '', 'name': '', 'upload_checkpoint': False}
    return ConfigDict(defaults | changes)


def epoch(number, **metrics):
    return {'epoch': number, 'train_loss': 1 / number, **metrics}


def read_lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def wandb_records(path):
    """Yields the records of a .wandb file: a header, then a LevelDB log of protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, message = path.read_bytes(), 7, b''
    assert data[:4] == b':W&B'
    while position + 7 <= len(data):
        left = -position % 32768
        if left < 7:  # too little for a chunk's header: padding up to the next block
            position += left
        _, size, kind = struct.unpack_from('<IHB', data, position)
        message += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a full message, or the last chunk of one
            yield Record.FromString(message)
            message = b''


def wait_for_logs(workdir, count):
    """The records of each start's .wandb file by their type, once wandb's own process has written them."""
    for _ in range(600):
        files = sorted(workdir.glob('wandb/offline-run-*/*.wandb'), key=lambda file: file.parent.name)
        logs = [defaultdict(list) for _ in files]
        for log, file in zip(logs, files, strict=True):
            for record in wandb_records(file):
                kind = record.WhichOneof('record_type')
                log[kind].append(getattr(record, kind))
        if len(logs) == count and all(log['exit'] for log in logs):
            return logs
        time.sleep(0.1)
    raise AssertionError(f'unfinished: {files}')


def history(log):
    """The metrics of each step, by name."""
    return [
        {'/'.join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in log['history']
    ]


def test_rewind_drops_later_and_torn_records(tmp_path):
    tracker = Tracker(tmp_path, wandb_config(), {})
    assert tracker.rewind(0) == []
    for number in (1, 2, 3):
        tracker.log_epoch(epoch(number))
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"epoch": 4, "train_l')
    assert tracker.rewind(2) == [epoch(1), epoch(2)]
    tracker.log_epoch(epoch(3, again=True))
    assert read_lines(tmp_path) == [epoch(1), epoch(2), epoch(3, again=True)]


def test_rewind_names_a_damaged_line(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"epoch": 1\n{"epoch": 2}\n')
    with pytest.raises(CheckpointError, match=r'metrics\.jsonl: line 1 is not JSON'):
        Tracker(tmp_path, wandb_config(), {}).rewind(2)


def test_files_are_standard_json(tmp_path):
    tracker = Tracker(tmp_path, wandb_config(), {})
    tracker.log_epoch({'epoch': 1, 'train_loss': float('nan'), 'val_loss': np.float32('inf')})
    tracker.finish({'counts': np.arange(2), 'best': {'loss': -np.inf, 'at': Path('a')}}, None)
    assert read_lines(tmp_path) == [{'epoch': 1, 'train_loss': None, 'val_loss': None}]
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results == {'counts': [0, 1], 'best': {'loss': None, 'at': 'a'}}


def test_disabled_does_not_import_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    Tracker(tmp_path, wandb_config(), {}).finish({}, None)
    assert [path.name for path in tmp_path.iterdir()] == ['results.json']


def test_goes_on_without_wandb(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    tracker = Tracker(tmp_path, wandb_config(mode='offline'), {})
    tracker.log_epoch(epoch(1))
    tracker.finish({}, None)
    assert capsys.readouterr().err.count('Weights & Biases: off for the rest') == 1


def test_one_failing_call_ends_tracking_not_training(tmp_path, capsys):
    class Broken:
        calls = 0

        def log(self, record, step, commit):
            Broken.calls += 1
            raise OSError('disk full')

    tracker = Tracker(tmp_path, wandb_config(), {})
    tracker._wandb_run = Broken()
    for number in (1, 2):
        tracker.log_epoch(epoch(number))
    tracker.close(exit_code=0)
    assert Broken.calls == 1
    assert capsys.readouterr().err.count('disk full') == 1
    assert len(read_lines(tmp_path)) == 2


def test_offline_run_reads_back_and_resumes(light_config, tmp_path, monkeypatch):
    def save(figure, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (2, 2)).save(path)
        return path

    def log_and_stop(tracker, record):
        log_epoch(tracker, record)
        if record['epoch'] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config, log_epoch, devices = light_config, Tracker.log_epoch, jax.devices()[:1]
    config.epochs, config.batch_size, config.dataset.drop_last = 2, 160, True
    config.wandb.update({'mode': 'offline', 'upload_checkpoint': True})
    monkeypatch.setattr('training.plots.save', save)
    monkeypatch.setattr(Tracker, 'log_epoch', log_and_stop)
    with pytest.raises(Interrupted):
        run(config, tmp_path, devices)
    results = run(config, tmp_path, devices)

    first, second = wait_for_logs(tmp_path, 2)
    identity = (tmp_path / 'wandb_id.txt').read_text()
    assert [log['run'][0].run_id for log in (first, second)] == [identity, identity]
    assert [log['exit'][0].exit_code for log in (first, second)] == [143, 0]
    (model,) = (json.loads(x.value_json) for x in first['run'][0].config.update if x.key == 'model')
    assert model['width'] == 4
    rows = [row for log in (first, second) for row in history(log)]
    logged = [row for row in rows if 'train_loss' in row]
    assert [row['_step'] for row in logged] == [1, 2]
    for row, record in zip(logged, read_lines(tmp_path), strict=True):
        assert {name: row[name] for name in record} == record
    names = 'training_images', 'parameters', 'curves', 'learning_rate', 'confusion_matrix'
    for name in names:
        assert any(f'plots/{name}/path' in row for row in rows), name
        assert list(tmp_path.glob(f'wandb/offline-run-*/files/media/images/plots/{name}*.png'))
    summary = {item.key: item.value_json for update in second['summary'] for item in update.update}
    assert json.loads(summary['test_accuracy']) == results['test_accuracy']
    assert any(content.path.startswith('arrays/') for content in second['artifact'][0].manifest.contents)


def test_online_without_an_api_key_is_recorded_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('wandb.login', lambda **_: False)
    tracker = Tracker(tmp_path, wandb_config(mode='online'), {})
    tracker.log_epoch(epoch(1, val_loss=float('nan')))
    tracker.finish({}, None)
    (row,) = history(wait_for_logs(tmp_path, 1)[0])
    assert np.isnan(float(row['val_loss']))
    assert capsys.readouterr().err.count('Weights & Biases: recorded offline') == 1


def test_an_inactive_tracker_reads_but_leaves_no_trace(tmp_path):
    Tracker(tmp_path, wandb_config(), {}).log_epoch(epoch(1))
    other = Tracker(tmp_path, wandb_config(mode='offline'), {}, active=False)
    assert other.rewind(0) == []
    other.log_epoch(epoch(2))
    other.finish({'epochs': 2}, None)
    assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']
    assert read_lines(tmp_path) == [epoch(1)]
