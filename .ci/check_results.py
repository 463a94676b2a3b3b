"""Fails unless a run's results.json reaches a value: check_results.py WORKDIR KEY LEAST."""

import json
import sys
from pathlib import Path

workdir, key, least = sys.argv[1:]
value = json.loads((Path(workdir) / 'results.json').read_text())[key]
print(f'{key} {value:.4f}, at least {least} needed')
sys.exit(value < float(least))
