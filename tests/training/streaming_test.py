"""Runs whose images stream from disk, against the same runs with resident images."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
