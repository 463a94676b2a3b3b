"""Names of config keys. Imports nothing heavy: a mistyped key is answered at once."""

import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import default


def flatten(config: Mapping, prefix: str = '') -> dict[str, Any]:
    """Returns {'optimizer.momentum': 0.9, …} of a nested config; lists, as JSON has them, become tuples."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, (Mapping, ConfigDict)):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[prefix + key] = tuple(value) if isinstance(value, list) else value
    return flat


def not_a_key(key: str) -> str:
    """Returns a sentence about a key that is not declared, with the nearest that is, if any is near."""
    nearest = _nearest_key(key)
    way_out = f'the nearest is config.{nearest}' if nearest else 'configs/default.py lists all'
    return f'config.{key} is not a key; {way_out}'


def _nearest_key(key: str) -> str | None:
    keys = list(flatten(default.get_config()))
    by_end = {k.rsplit('.', 1)[-1]: k for k in keys}
    by_initials = {''.join(word[0] for word in end.split('_')): k for end, k in by_end.items() if '_' in end}
    end = key.rsplit('.', 1)[-1]
    if end in by_initials:  # lr, wd, bs
        return by_initials[end]
    if close_end := difflib.get_close_matches(end, by_end, 1, 0.8):
        return by_end[close_end[0]]
    return next(iter(difflib.get_close_matches(key, keys, 1, 0.7)), None)
