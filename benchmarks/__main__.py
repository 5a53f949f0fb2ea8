"""Lists the benchmarks, one name a line, for `make bench`. Each is run as `python -m benchmarks.NAME`."""

from pathlib import Path

RUN = "\n    main(run, __doc__)\n"
"""How a module that is one ends, and none that only helps."""

for _file in sorted(Path(__file__).parent.glob("*.py")):
    if RUN in _file.read_text():
        print(_file.stem)
