"""What every process of Ray loads: nothing that only tests need and that costs more than all the rest."""

import subprocess
import sys

LOADED = "import sys, ray; print(*sys.modules, sep='\\n')"


def test_ray_loads_no_grammar_of_urls() -> None:
    """jsonschema takes up `rfc3987_syntax` where it is installed, and builds a grammar then: 1.7 s in each process."""
    loaded = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True).stdout.split()
    assert "jsonschema" in loaded, "expected what would load it"
    assert {"rfc3987_syntax", "lark"}.isdisjoint(loaded)
