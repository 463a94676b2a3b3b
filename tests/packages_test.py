"""pyproject.toml and requirements.txt name what the code imports, with the same bounds."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
DEPENDENCIES = {requirement.split(';')[0] for requirement in PROJECT['project']['dependencies']}
OURS = PROJECT['tool']['setuptools']['packages']


def test_requirements_have_the_bounds_of_the_project():
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    required = {line for line in lines if not line.startswith('#')}
    assert required == {
        'jax[cuda12]' + d.removeprefix('jax') if d.startswith('jax>') else d for d in DEPENDENCIES
    }


def test_what_is_imported_is_named():
    files = [
        ROOT / 'train.py',
        ROOT / 'evaluate.py',
        *(file for name in OURS for file in (ROOT / name).glob('*.py')),
    ]
    imported = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition('.')[0])
    named = {_normal(re.split('[>=]', dependency)[0]) for dependency in DEPENDENCIES}
    distributions = packages_distributions()
    for name in imported - set(sys.stdlib_module_names) - {*OURS, 'evaluate'}:
        assert {_normal(each) for each in distributions[name]} & named, name


def _normal(distribution: str) -> str:
    return distribution.lower().replace('_', '-')
