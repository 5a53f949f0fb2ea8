"""Private repositories: what a team keeps for them reaches git, its own host, and nothing and nobody else."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from actors.builder import git_credential
from actors.builder.access import Access, no_access
from actors.builder.errors import SourceError
from actors.builder.git import GitSource
from actors.builder.model import BuildLimits, BuildOutcome, BuildRequest, BuildState, SourceSpec
from actors.builder.ssh_keys import KeyPair, make_pair
from actors.supervisor.orders import SourceAccess
from actors.supervisor.source_access import source_access
from events.model import team
from events.model.base import Meta, Refusal
from events.model.team_credentials import Credential, CredentialKind, place_name
from events.secrets.keyring import Keyring
from events.secrets.master import ensure_master_file
from events.secrets.table import MemoryKeyTable
from tests.actors.builder.conftest import TOKEN, Bench, git, repository
from tests.git_hosts import HttpHost, SshHost, http_host, ssh_host
from tests.toolchains import need

pytestmark = pytest.mark.servers

USER = (70031, 70031) if os.getuid() == 0 else None


class Team:
    """A team's state as its events make it, and the real keyring; `asked`: the URLs that were asked about."""

    def __init__(self, name: str, keyring: Keyring) -> None:
        self.state = team.apply(team.TeamState(), team.TeamCreated(name=name), 1)
        self.keyring = keyring
        self.asked: list[str] = []

    def tell(self, command: team.TeamCommand) -> None:
        decided = team.decide(self.state, command, Meta(command_id="c", at=1))
        assert not isinstance(decided, Refusal), decided
        for event in decided:
            self.state = team.apply(self.state, event, 1)  # type: ignore[arg-type]

    async def keep(self, name: str, prefix: str, secret: str | KeyPair, user: str = "ada") -> None:
        pair = secret if isinstance(secret, KeyPair) else None
        clear, place = pair.private if pair else str(secret), place_name(name, prefix)
        stream = f"team/{self.state.name}"
        sealed = await self.keyring.seal_all(self.state.name, stream, {place: clear})
        kind = CredentialKind.SSH_KEY if pair else CredentialKind.PASSWORD
        credential = Credential(
            kind=kind,
            prefix=prefix,
            secret=sealed[place],
            user="" if pair else user,
            public=pair.public if pair else "",
        )
        self.tell(team.AddCredential(name=name, credential=credential))

    def pin(self, host: SshHost, public: str = "") -> None:
        self.tell(team.PinHostKeys(host=host.name, keys=(public or host.key.public,)))

    async def access(self, url: str) -> SourceAccess:
        self.asked.append(url)
        return await source_access(self.state, url, self.keyring)


class Teams:
    """Red and blue, and an engine that builds for both."""

    def __init__(self, root: Path, keyring: Keyring) -> None:
        self.red, self.blue = Team("red", keyring), Team("blue", keyring)
        self.bench = Bench(root, access_for=self._access_for)
        self.root = root

    def _access_for(self, request: BuildRequest) -> Access:
        return {"red": self.red.access, "blue": self.blue.access}.get(request.team, no_access)

    async def build(self, url: str, *, name: str = "red") -> BuildOutcome:
        request = self.bench.request(SourceSpec(kind="git", url=url), team=name, user=USER)
        return await self.bench.engine.run(request)

    def everything(self, outcome: BuildOutcome) -> str:
        """All that a build told or left behind: its lines, its outcome, every file below the engine's directories."""
        files = [path.read_bytes().decode("utf-8", "replace") for path in self.root.rglob("*") if path.is_file()]
        return "\n".join([self.bench.text(outcome.build_id), repr(outcome), *files])


@pytest.fixture
async def teams(open_dir: Path, tmp_path: Path) -> Teams:
    master = tmp_path / "master.key"
    ensure_master_file(master)
    made = Teams(open_dir, Keyring(table=MemoryKeyTable(), master_file=master))
    await made.bench.engine.start()
    return made


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshHost]:
    need("sshd")
    directory = tmp_path / "sshd"
    directory.mkdir()
    with ssh_host(directory) as host:
        yield host


def of_every_process(name: str) -> list[bytes]:
    """That file of each process that we may look at and that has not ended meanwhile."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found.append((entry / name).read_bytes())
    return found


def secrets_of(outcome: BuildOutcome, everything: str, *secrets: str) -> list[str]:
    forms = [form for secret in secrets for form in (secret, base64.b64encode(f"ada:{secret}".encode()).decode())]
    return [form for form in forms if form in everything]


# --- https ------------------------------------------------------------------------------------------------------------


async def test_a_token_reaches_its_host_and_nothing_else(teams: Teams, http: HttpHost) -> None:
    await teams.red.keep("ci", f"{http.url}/acme", TOKEN)
    seen: list[bytes] = []
    modes: set[int] = set()

    def look() -> None:
        seen.extend(of_every_process("cmdline") + of_every_process("environ"))
        kept = [path for place in teams.root.rglob("access-*") for path in (place, *place.iterdir())]
        modes.update(path.stat().st_mode & 0o777 for path in kept)

    http.look = look
    built = await teams.build(f"{http.url}/acme/shop")

    assert built.state is BuildState.SUCCEEDED, built
    assert built.artifact is not None and built.artifact.source_commit
    assert f"ada:{TOKEN}" in {given for _, given in http.asked}
    assert modes == {0o700, 0o600}
    assert b"git-remote-http" in b"".join(seen) and TOKEN.encode() not in b"".join(seen)
    assert secrets_of(built, teams.everything(built), TOKEN) == []
    assert not list(teams.bench.engine.dirs.work.iterdir())


async def test_another_teams_token_is_not_used_and_the_error_says_how_to_add_one(teams: Teams, http: HttpHost) -> None:
    await teams.red.keep("ci", f"{http.url}/acme", TOKEN)
    built = await teams.build(f"{http.url}/acme/shop", name="blue")
    assert (built.state, built.code) == (BuildState.FAILED, "git_auth_refused")
    assert f"rayfold credentials add NAME --url {http.url}/acme" in built.reason
    assert {given for _, given in http.asked} == {""}


async def test_a_token_that_is_refused_is_named_and_not_shown(teams: Teams, http: HttpHost) -> None:
    await teams.red.keep("ci", f"{http.url}/acme", "an-old-token")
    built = await teams.build(f"{http.url}/acme/shop")
    assert built.code == "git_auth_refused"
    assert "the credential ci (user ada) was tried" in built.reason
    assert f"rayfold credentials add ci --url {http.url}/acme" in built.reason
    assert secrets_of(built, teams.everything(built), "an-old-token") == []


async def test_a_token_that_the_host_repeats_is_masked(teams: Teams, http: HttpHost) -> None:
    await teams.red.keep("ci", f"{http.url}/acme", TOKEN)
    http.echoes = True
    http.passwords["acme"] = "ada:" + TOKEN
    built = await teams.build(f"{http.url}/acme/shop")
    assert built.code == "git_auth_refused"
    assert "the token •••• may not" in teams.bench.text(built.build_id)
    assert secrets_of(built, teams.everything(built), TOKEN) == []


async def test_the_longest_prefix_is_used_and_one_beside_it_is_not(
    teams: Teams, http: HttpHost, tmp_path: Path
) -> None:
    repository(tmp_path / "http/acme-labs/shop")
    http.passwords["acme-labs"] = "ada:another"
    await teams.red.keep("all", f"{http.url}/acme", "for-all-the-others")
    await teams.red.keep("shop", f"{http.url}/acme/shop.git", TOKEN)

    assert (await teams.build(f"{http.url}/acme/shop")).state is BuildState.SUCCEEDED
    assert {given for _, given in http.asked} == {"", f"ada:{TOKEN}"}
    http.asked.clear()
    assert (await teams.build(f"{http.url}/acme-labs/shop")).code == "git_auth_refused"
    assert {given for _, given in http.asked} == {""}


@pytest.mark.parametrize("once_let_in", [False, True])
async def test_a_redirect_to_another_host_does_not_get_the_token(
    teams: Teams, http: HttpHost, tmp_path: Path, once_let_in: bool
) -> None:
    await teams.red.keep("ci", f"{http.url}/acme", TOKEN)
    with http_host(tmp_path / "http") as other:
        other.passwords["acme"] = f"ada:{TOKEN}"
        http.redirects["/acme"] = f"{other.url}/acme"
        http.redirects_known = once_let_in
        built = await teams.build(f"{http.url}/acme/shop")
        assert built.state is BuildState.FAILED
        assert other.asked and {given for _, given in other.asked} == {""}


async def test_a_redirect_below_the_prefix_is_followed_and_one_beside_it_gets_nothing(
    teams: Teams, http: HttpHost, tmp_path: Path
) -> None:
    repository(tmp_path / "http/other/shop")
    http.passwords["other"] = f"ada:{TOKEN}"
    await teams.red.keep("ci", f"{http.url}/acme", TOKEN)
    http.redirects = {"/acme/old/": f"{http.url}/acme/shop.git/", "/acme/shop.git/": f"{http.url}/acme/shop/"}
    assert (await teams.build(f"{http.url}/acme/old")).state is BuildState.SUCCEEDED
    http.asked.clear()
    http.redirects = {"/acme/old/": f"{http.url}/other/shop/"}
    assert (await teams.build(f"{http.url}/acme/old")).code == "git_auth_refused"
    assert {given for _, given in http.asked} == {""}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, True),
        ({"path": "acme/shop.git"}, True),
        ({"path": "acme"}, True),
        ({"path": "acme-evil/shop"}, False),
        ({"path": "acme/../evil/shop"}, False),
        ({"path": "acme/%2e%2e/evil"}, False),
        ({"path": ""}, False),
        ({"protocol": "http"}, False),
        ({"host": "git.example.com:8443"}, False),
        ({"host": "evil.example.com"}, False),
        ({"action": "store"}, False),
        ({"action": "erase"}, False),
    ],
)
def test_git_is_told_for_urls_below_the_prefix_only(tmp_path: Path, asked: dict[str, str], told: bool) -> None:
    kept = {"protocol": "https", "host": "git.example.com", "path": ["acme"], "username": "ada", "password": TOKEN}
    (tmp_path / "answer.json").write_text(json.dumps(kept))
    question = {"protocol": "https", "host": "git.example.com", "path": "acme/shop", "wwwauth[]": "Basic", **asked}
    action = question.pop("action", "get")
    lines = "".join(f"{key}={value}\n" for key, value in question.items())
    command = [sys.executable, "-I", "-S", git_credential.__file__, str(tmp_path / "answer.json"), action]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    assert done.stdout == (f"username=ada\npassword={TOKEN}\n" if told else "")


async def test_a_submodule_gets_what_is_for_its_own_url(teams: Teams, http: HttpHost, tmp_path: Path) -> None:
    root = tmp_path / "http"
    with http_host(root) as other:
        for host, name in ((http, "ours"), (other, "theirs")):
            repository(root / f"{name}/lib", {"lib.txt": name})
            host.passwords[name] = f"ada:for-{name}"
        add_submodule(root / "acme/shop", f"{http.url}/ours/lib", root / "ours/lib")
        await teams.red.keep("ci", f"{http.url}/acme", TOKEN)
        await teams.red.keep("ours", f"{http.url}/ours", "for-ours")
        assert (await teams.build(f"{http.url}/acme/shop")).state is BuildState.SUCCEEDED
        assert teams.red.asked == [f"{http.url}/acme/shop", f"{http.url}/ours/lib"]

        add_submodule(root / "acme/shop", f"{other.url}/theirs/lib", root / "theirs/lib")
        built = await teams.build(f"{http.url}/acme/shop")
        assert built.code == "git_auth_refused" and f"--url {other.url}/theirs" in built.reason
        assert {given for _, given in other.asked} == {""}


def add_submodule(root: Path, url: str, local: Path) -> None:
    """As whoever may read it would have committed it."""
    name = local.parent.name
    git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(local), name, cwd=root)
    git("config", "-f", ".gitmodules", f"submodule.{name}.url", url, cwd=root)
    git("commit", "-qam", f"Add {name}", cwd=root)


async def test_one_whose_key_is_destroyed_says_so(teams: Teams, http: HttpHost) -> None:
    await teams.red.keep("ci", f"{http.url}/acme", TOKEN)
    [key] = (await teams.red.keyring.keys("red")).keys
    await teams.red.keyring.destroy("red", key.id, by="ann", reason="she leaves")
    built = await teams.build(f"{http.url}/acme/shop")
    assert built.code == "credential_unreadable"
    assert "destroyed by ann (she leaves). Keep it anew: rayfold credentials add ci" in built.reason
    assert "config set" not in built.reason and http.asked == []


async def test_a_sealed_token_moved_to_another_prefix_does_not_open(teams: Teams, http: HttpHost) -> None:
    await teams.red.keep("ci", "https://git.example.com", TOKEN)
    held = teams.red.state.credentials["ci"]
    moved = Credential(kind=held.kind, prefix=http.url, secret=held.secret, user="ada")
    teams.red.tell(team.AddCredential(name="ci", credential=moved))
    built = await teams.build(f"{http.url}/acme/shop")
    assert built.code == "credential_unreadable" and http.asked == []


# --- ssh --------------------------------------------------------------------------------------------------------------


async def test_a_deploy_key_opens_its_repository_and_is_gone(teams: Teams, ssh: SshHost, tmp_path: Path) -> None:
    source, pair = repository(tmp_path / "shop"), make_pair()
    ssh.let_in(pair)
    await teams.red.keep("deploy", ssh.url(tmp_path), pair)
    teams.red.pin(ssh)
    built = await teams.build(ssh.url(source))

    assert built.state is BuildState.SUCCEEDED, built
    secret = pair.private.splitlines()[2]
    assert secret not in teams.everything(built) and secret.encode() not in ssh.seen.read_bytes()
    assert b"IdentitiesOnly=yes" in ssh.seen.read_bytes()
    assert not list(teams.bench.engine.dirs.work.iterdir())


async def test_a_key_that_the_host_does_not_know_is_named_with_its_public_half(
    teams: Teams, ssh: SshHost, tmp_path: Path
) -> None:
    source, pair = repository(tmp_path / "shop"), make_pair()
    await teams.red.keep("deploy", ssh.url(tmp_path), pair)
    teams.red.pin(ssh)
    built = await teams.build(ssh.url(source))
    assert built.code == "git_auth_refused"
    assert "the credential deploy was tried" in built.reason and built.reason.endswith(pair.public)

    ssh.let_in(pair)
    refused = await teams.build(ssh.url(source), name="blue")
    assert refused.code == "git_host_key_unknown"  # blue has neither the key nor the pin
    assert (await teams.build(ssh.url(source))).state is BuildState.SUCCEEDED


async def test_a_host_that_nobody_pinned_is_refused_and_the_error_pins_it(
    teams: Teams, ssh: SshHost, tmp_path: Path
) -> None:
    source, pair = repository(tmp_path / "shop"), make_pair()
    ssh.let_in(pair)
    await teams.red.keep("deploy", ssh.url(tmp_path), pair)
    built = await teams.build(ssh.url(source))
    assert built.code == "git_host_key_unknown"
    told = re.search(r"(ssh-keyscan [^|]+) \| rayfold credentials pin (\S+)", built.reason)
    assert told is not None and told[2] == ssh.name
    scanned = subprocess.run(told[1].split(), capture_output=True, text=True, check=True).stdout
    assert f"{ssh.name} {ssh.key.public}" in scanned


async def test_a_host_with_another_key_than_the_pinned_one_is_refused(
    teams: Teams, ssh: SshHost, tmp_path: Path
) -> None:
    source, pair = repository(tmp_path / "shop"), make_pair()
    ssh.let_in(pair)
    await teams.red.keep("deploy", ssh.url(tmp_path), pair)
    teams.red.pin(ssh, make_pair().public)
    built = await teams.build(ssh.url(source))
    assert built.code == "git_host_key_changed" and "rayfold credentials pin" in built.reason
    assert not ssh.seen.exists()


async def test_a_machine_without_ssh_says_so(tmp_path: Path) -> None:
    for program in ("git", "sh"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)

    async def sink(lines: list[str]) -> None:
        pass

    source = GitSource(home=tmp_path, limits=BuildLimits(), environ={"PATH": str(tmp_path)}, sink=sink)
    with pytest.raises(SourceError) as caught:
        await source.fetch("git@127.0.0.1:acme/shop", "", tmp_path / "src")
    assert caught.value.code == "ssh_missing"
