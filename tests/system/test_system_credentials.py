"""A team's private repositories, from the command line to the answering app: a token and a deploy key, kept nowhere."""

from pathlib import Path

import pytest

from tests.actors.builder.conftest import git
from tests.git_hosts import http_host, ssh_host
from tests.system import apps
from tests.system.platform import Platform
from tests.toolchains import need

pytestmark = [pytest.mark.system, pytest.mark.servers]

TOKEN = "glpat-correct-horse-battery-staple"


def repository(path: Path, text: str) -> Path:
    apps.write(path, apps.web(text))
    git("init", "-q", "-b", "main", cwd=path)
    git("add", ".", cwd=path)
    git("commit", "-q", "-m", "First", cwd=path)
    return path


def test_a_token_reads_a_private_repository_and_stands_nowhere(platform: Platform, tmp_path: Path) -> None:
    repository(tmp_path / "git/acme/shop", "one")
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(TOKEN + "\n")
    with http_host(tmp_path / "git") as host:
        host.passwords["acme"] = f"git:{TOKEN}"
        url = f"{host.url}/acme/shop"
        refused = platform.cli("deploy", url, "--app", "private", expect=6)
        assert f"rayfold credentials add NAME --url {host.url}/acme" in refused.out + refused.err

        platform.cli("credentials", "add", "acme", "--url", f"{host.url}/acme", "--token-file", str(file))
        platform.cli("deploy", url, "--app", "private")
        assert platform.serving("private")["text"] == "one"
        assert f"git:{TOKEN}" in {given for _, given in host.asked}

        platform.cli("credentials", "remove", "acme", "-m", "ann has left")
        platform.cli("deploy", url, "--app", "private", expect=6)
    told = [platform.cli("events", "--stream", "team/default").out, platform.cli("credentials").out]
    told.append(platform.cli("replay", "team/default").out)
    assert "TeamCredentialAdded" in told[0] and not any(TOKEN in text or "sealed:" in text for text in told)
    files = [path for path in platform.data.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_a_deploy_key_is_made_given_to_the_host_and_used(platform: Platform, tmp_path: Path) -> None:
    need("sshd")
    source = repository(tmp_path / "git/shop", "two")
    (tmp_path / "sshd").mkdir()
    with ssh_host(tmp_path / "sshd") as host:
        made = platform.cli("credentials", "add", "shop", "--url", host.url(tmp_path / "git")).json
        refused = platform.cli("deploy", host.url(source), "--app", "keyed", expect=6)
        assert "git_host_key_unknown" in refused.out + refused.err

        known = tmp_path / "known_hosts"
        known.write_text(f"{host.name} {host.key.public}\n")
        platform.cli("credentials", "pin", f"127.0.0.1:{host.port}", "--file", str(known))
        refused = platform.cli("deploy", host.url(source), "--app", "keyed", expect=6)
        assert made["public_key"] in refused.out + refused.err

        with (tmp_path / "sshd/authorized_keys").open("a") as file:
            file.write(made["public_key"] + "\n")
        platform.cli("deploy", host.url(source), "--app", "keyed")
        assert platform.serving("keyed")["text"] == "two"
        seen = host.seen.read_bytes()
        assert b"IdentitiesOnly=yes" in seen and b"PRIVATE" not in seen
