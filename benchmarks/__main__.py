"""Lists the benchmarks, one name a line, for `make bench`. Each is run as `python -m benchmarks.NAME`."""

from pathlib import Path

NOT_BENCHMARKS = {
    "__init__", "__main__", "append_load", "density_worker", "fold_worker", "harness", "histories", "http_load",
    "log_processes", "owner_worker", "partition_log", "platform_run", "queue_load", "workload",
}  # fmt: skip

for _file in sorted(Path(__file__).parent.glob("*.py")):
    if _file.stem not in NOT_BENCHMARKS:
        print(_file.stem)
