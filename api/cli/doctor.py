"""`rayfold doctor`: checks the machine and says what to fix.

Knows how checks are shown and counted; each of them is in `checks`.
"""

from dataclasses import asdict

from api.cli.checks import CHECKS, Check
from api.cli.errors import CliError
from api.cli.output import styled
from api.cli.safe import visible
from api.cli.session import Session, takes_session

_STYLES = {"ok": "good", "warn": "warn", "fail": "bad"}


@takes_session
def doctor(session: Session) -> None:
    """Check this machine, and say what to fix; exits 1 when something must be fixed."""
    found = [check(session.data_dir) for check in CHECKS]
    failed = [check.name for check in found if check.verdict == "fail"]
    if session.out.as_json:
        session.out.json({"ok": not failed, "checks": [asdict(check) for check in found]})
    else:
        for check in found:
            _show(check)
    if failed:
        raise CliError(f"must be fixed: {', '.join(failed)}", hint="each line above says how")


def _show(check: Check) -> None:
    print(f"{styled(check.verdict.ljust(4), _STYLES[check.verdict])}  {check.name.ljust(15)}  {visible(check.found)}")
    if check.fix and check.verdict != "ok":
        print(f"{' ' * 23}fix: {visible(check.fix)}")
