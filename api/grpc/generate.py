"""Makes the gRPC modules of this package from its `.proto` files; needs `grpcio-tools`, which running it does not.

Run `python -m api.grpc.generate` after a change; a test compares what is committed with what this makes.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def generate(into: Path) -> list[Path]:
    """Write the modules below `into`; returns them, relative to it."""
    from grpc_tools import protoc

    made: list[Path] = []
    for proto in sorted(HERE.glob("*.proto")):
        name = str(proto.relative_to(ROOT))
        outputs = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "pyi")]
        if protoc.main(["protoc", f"-I{ROOT}", *outputs, name]) != 0:
            raise SystemExit(f"expected {name} to compile, found what protoc says above")
        stem = proto.relative_to(ROOT).with_suffix("")
        made += [stem.with_name(stem.name + ending) for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")]
    return made


if __name__ == "__main__":
    for module in generate(ROOT):
        sys.stderr.write(f"{module}\n")
