"""Compares runs: means over seeds, what distinguishes the others, and the curves of all in one plot.

python compare.py runs/seed0 runs/seed1 runs/seed2 runs/wide [--plot=FILE.png]
"""

from pathlib import Path

from absl import app, flags

from training import command_line

_PLOT = flags.DEFINE_string('plot', None, 'Path of the plot; default: comparison.png beside the first run.')


def main(argv: list[str]) -> None:
    with command_line.explained():
        from training.comparison import compare

        workdirs = argv[1:]
        compare(workdirs, _PLOT.value or Path(*workdirs[:1]).parent / 'comparison.png')


if __name__ == '__main__':
    app.run(main, flags_parser=command_line.parse_flags)
