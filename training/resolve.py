"""What a config leaves to the devices, decided."""

from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from input_pipeline import prepare
from jax_models import onednn
from training import ConfigError


def resolve(config: ConfigDict, devices: Sequence[jax.Device]) -> ConfigDict:
    """Returns a copy of a checked config in which no value is `auto`, which depends on the devices.

    But for dataset.loader, which depends on the size of the images too. The name of the dataset is then also
    the one that a folder is prepared as, and folders are absolute: they hold from anywhere.
    """
    config = config.copy_and_resolve_references()
    for name in ('folder', 'data_dir', 'manual_dir', 'cache_dir'):
        if config.dataset[name]:
            config.dataset[name] = str(Path(config.dataset[name]).expanduser().absolute())
    if config.dataset.folder:
        config.dataset.name = prepare.folder_dataset_name(config.dataset.name, config.dataset.folder)
    if config.precision == 'auto':
        bfloat16 = _convolves_bfloat16(devices[0]) and config.model.convolution != 'winograd'
        config.precision = 'bfloat16' if bfloat16 else 'float32'
    if config.parallel == 'auto':
        config.parallel = 'jit'
    # Several CPU devices exist for tests only, and chunks of a batch would cut across their shares.
    single = len(devices) == 1 and devices[0].platform == 'cpu'
    for_onednn = single and config.parallel == 'jit' and config.precision != 'float16'
    if config.model.convolution == 'auto':
        config.model.convolution = 'winograd' if single and config.precision == 'float32' else 'xla'
        faster = for_onednn and (config.precision == 'bfloat16' or onednn.is_fast())
        if faster and onednn.is_available(config.precision):
            config.model.convolution = 'onednn'
    elif config.model.convolution == 'onednn' and not (for_onednn and onednn.is_available(config.precision)):
        raise ConfigError(
            'config.model.convolution=onednn: needs one CPU device, parallel=jit, float32 or bfloat16, and a '
            f'JAX that has oneDNN in {config.precision} for this CPU (0.12 on x86-64); take auto'
        )
    if config.early_stopping.metric == 'auto':
        split = selection_split(config)
        config.early_stopping.metric = 'train_loss' if split is None else f'{split}_accuracy'
    if config.schedule.plateau_metric == 'auto':
        config.schedule.plateau_metric = f'{selection_split(config) or "train"}_loss'
    return config


def _convolves_bfloat16(device: jax.Device) -> bool:
    if device.platform == 'cpu':
        return False
    # NVIDIA's before Ampere have no units for it: XLA converts back and forth, which is slower than float32.
    capability = str(getattr(device, 'compute_capability', '')).partition('.')[0]
    return not capability.isdecimal() or int(capability) >= 8


def selection_split(config: ConfigDict) -> str | None:
    """Returns the split whose accuracy chooses the best checkpoint: val, test, or None (the last epoch)."""
    if config.dataset.validation or config.dataset.validation_split:
        return 'val'
    return 'test' if config.dataset.watch_test else None
