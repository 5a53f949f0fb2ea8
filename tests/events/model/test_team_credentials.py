"""A team's credentials as events: which URL gets which, what may be kept, and what asking again comes to."""

import base64

import msgspec
import pytest

from events.model import team
from events.model.base import Meta, Refusal
from events.model.team_credentials import (
    MAX_CREDENTIALS,
    MAX_HOSTS,
    Credential,
    CredentialKind,
    credential_for,
    host_keys_for,
    host_name,
    where_of,
)

META = Meta(command_id="c", at=1)
SEALED = "sealed:1:red:0123456789abcdef:fedcba9876543210:AAECAwQFBgcICQoLDA0ODw"
OTHER = SEALED.replace("fedc", "0000")
ED25519 = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()


def token(prefix: str, secret: str = SEALED) -> Credential:
    return Credential(kind=CredentialKind.PASSWORD, prefix=prefix, secret=secret, user="git")


def key(prefix: str, secret: str = SEALED, *, made_here: bool = False) -> Credential:
    return Credential(kind=CredentialKind.SSH_KEY, prefix=prefix, secret=secret, public=ED25519, made_here=made_here)


def after(*commands: team.TeamCommand, state: team.TeamState | None = None) -> team.TeamState:
    state = state or after(team.CreateTeam(name="red"), state=team.TeamState())
    for command in commands:
        decided = team.decide(state, command, META)
        assert not isinstance(decided, Refusal), decided
        for event in decided:
            state = team.apply(state, event, 1)  # type: ignore[arg-type]
    return state


def refused(state: team.TeamState, command: team.TeamCommand) -> Refusal:
    decided = team.decide(state, command, META)
    assert isinstance(decided, Refusal), decided
    return decided


# --- which URL gets which ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("https://git.example.com", "https://git.example.com/acme/shop.git"),
        ("https://git.example.com/acme", "https://git.example.com/acme/shop"),
        ("https://git.example.com/acme/", "https://GIT.example.com:443/acme/shop"),
        ("https://git.example.com/acme/shop.git", "https://git.example.com/acme/shop"),
        ("https://git.example.com/acme/shop", "https://git.example.com/acme/shop.git/"),
        ("ssh://git@git.example.com/acme", "git@git.example.com:acme/shop.git"),
        ("git@git.example.com:acme", "ssh://git@git.example.com:22/acme/shop"),
        ("ssh://git.example.com:2222/acme", "ssh://git@git.example.com:2222/acme/shop"),
        ("https://git.example.com/acme/My%20Project", "https://git.example.com/acme/My%20Project/_git/shop"),
        ("http://127.0.0.1:3000/acme", "http://127.0.0.1:3000/acme/shop"),
    ],
)
def test_a_url_below_the_prefix_gets_the_credential(prefix: str, url: str) -> None:
    held = key(prefix) if "http" not in prefix else token(prefix)
    assert credential_for({"a": held}, url) == ("a", held)


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.com/acme-evil/shop",
        "https://git.example.com/acm",
        "https://git.example.com/ACME/shop",
        "https://git.example.com.evil.org/acme/shop",
        "https://evil.git.example.com/acme/shop",
        "https://git.example.com:8443/acme/shop",
        "http://git.example.com/acme/shop",
        "ssh://git.example.com/acme/shop",
        "https://evil.org/https://git.example.com/acme",
        "https://git.example.com@evil.org/acme/shop",
        "https://git.example.com/acme/../evil/shop",
        "https://git.example.com/acme/%2e%2e/evil/shop",
        "https://git.example.com/acme/%252e%252e/evil/shop",
        "https://git.example.com/acme/..%2fevil",
        "https://git.example.com/acme/..\\evil",
        "https://git.example.com/acme/shop?x=1",
        "https://git.example.com/acme/shop\n",
        "/srv/git/acme/shop",
        "file:///acme/shop",
        "https://[git.example.com/acme",
        "https://git.example.com:x/acme",
        "",
    ],
)
def test_a_url_elsewhere_or_that_could_lead_elsewhere_gets_none(url: str) -> None:
    assert credential_for({"a": token("https://git.example.com/acme")}, url) is None


def test_the_longest_prefix_wins() -> None:
    held = {
        "all": token("https://git.example.com"),
        "acme": token("https://git.example.com/acme"),
        "shop": token("https://git.example.com/acme/shop"),
    }
    for url, name in (("other/x", "all"), ("acme/x", "acme"), ("acme/shop.git", "shop"), ("acme/shopping", "acme")):
        found = credential_for(held, f"https://git.example.com/{url}")
        assert found is not None and found[0] == name


def test_host_keys_are_for_the_host_and_port_that_they_are_pinned_for() -> None:
    pinned = {"git.example.com": (ED25519,), "[git.example.com]:2222": ("other",)}
    assert host_keys_for(pinned, "git@git.example.com:acme/shop") == (f"git.example.com {ED25519}",)
    assert host_keys_for(pinned, "ssh://git.example.com:2222/x") == ("[git.example.com]:2222 other",)
    assert host_keys_for(pinned, "ssh://git.example.org/x") == ()
    assert host_keys_for(pinned, "https://git.example.com/x") == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("git.example.com", "git.example.com"), ("Git.Example.com:22", "git.example.com"),
        ("git.example.com:2222", "[git.example.com]:2222"), ("[git.example.com]:2222", "[git.example.com]:2222"),
        ("[::1]:2222", "[::1]:2222"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1"),
        ("", None), ("a b", None), ("*.example.com", None), ("host:0", None), ("host:70000", None), ("-o", None),
        ("|1|abc|def", None), ("a,b", None), ("host\nother", None),
    ],
)  # fmt: skip
def test_hosts_are_named_as_ssh_names_them(text: str, name: str | None) -> None:
    assert host_name(text) == name


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_credential_is_kept_replaced_and_removed() -> None:
    first, second = token("https://git.example.com/acme"), token("https://git.example.com/acme", OTHER)
    state = after(team.AddCredential(name="ci", credential=first))
    assert state.credentials == {"ci": first}
    assert team.decide(state, team.AddCredential(name="ci", credential=first), META) == []

    state = after(team.AddCredential(name="ci", credential=second), state=state)
    assert state.credentials == {"ci": second}
    state = after(team.RemoveCredential(name="ci"), state=state)
    assert state.credentials == {}
    assert refused(state, team.RemoveCredential(name="ci")).code == "not_found"


def test_a_pair_that_was_made_stays_when_it_is_asked_for_again() -> None:
    made, again = key("git@host:acme", made_here=True), key("git@host:acme", OTHER, made_here=True)
    state = after(team.AddCredential(name="deploy", credential=made))
    assert team.decide(state, team.AddCredential(name="deploy", credential=again), META) == []

    brought = msgspec.structs.replace(again, made_here=False)
    assert after(team.AddCredential(name="deploy", credential=brought), state=state).credentials["deploy"] == brought
    moved = key("git@host:other", OTHER, made_here=True)
    assert after(team.AddCredential(name="deploy", credential=moved), state=state).credentials["deploy"] == moved


def test_one_prefix_has_one_credential() -> None:
    state = after(team.AddCredential(name="a", credential=token("https://git.example.com/acme")))
    same = token("https://git.example.com:443/acme/")
    found = refused(state, team.AddCredential(name="b", credential=same))
    assert found.code == "conflict" and "rayfold credentials remove a" in found.hint


@pytest.mark.parametrize(
    "credential",
    [
        token("http://git.example.com/acme"),
        token("https://ada@git.example.com/acme"),
        token("https://ada:hunter2@git.example.com/acme"),
        token("https://git.example.com/acme?x=hunter2"),
        token("ftp://git.example.com"),
        token("git.example.com"),
        token("https://"),
        token("https://git.example.com/" + "a" * 500),
        token("https://git.example.com", "hunter2"),
        token("https://git.example.com", SEALED + "A" * 40_000),
        token("ssh://git.example.com"),
        key("https://git.example.com"),
        key("ssh://ada:hunter2@git.example.com"),
        msgspec.structs.replace(token("https://git.example.com"), user=""),
        msgspec.structs.replace(token("https://git.example.com"), user="a\nhost=evil.org"),
        msgspec.structs.replace(token("https://git.example.com"), user="a:b"),
        msgspec.structs.replace(key("ssh://git.example.com"), user="a"),
    ],
)
def test_what_could_leak_or_never_fit_is_refused(credential: Credential) -> None:
    found = refused(after(), team.AddCredential(name="ci", credential=credential))
    assert found.code == "invalid" and "expected" in found.message
    assert "hunter2" not in found.message + found.hint


def test_there_is_a_limit_to_how_many() -> None:
    state = after(
        *(
            team.AddCredential(name=f"c{n}", credential=token(f"https://git.example.com/{n}"))
            for n in range(MAX_CREDENTIALS)
        ),
        *(team.PinHostKeys(host=f"h{n}.example.com", keys=(ED25519,)) for n in range(MAX_HOSTS)),
    )
    assert "at most" in refused(state, team.AddCredential(name="more", credential=token("https://x.org"))).message
    assert "at most" in refused(state, team.PinHostKeys(host="more.example.com", keys=(ED25519,))).message
    after(team.PinHostKeys(host="h0.example.com", keys=(ED25519, ED25519)), state=state)


def test_host_keys_are_pinned_as_a_whole_and_unpinned() -> None:
    state = after(team.PinHostKeys(host="git.example.com", keys=(ED25519,)))
    assert state.host_keys == {"git.example.com": (ED25519,)}
    assert team.decide(state, team.PinHostKeys(host="git.example.com", keys=(ED25519,)), META) == []
    state = after(team.UnpinHostKeys(host="git.example.com"), state=state)
    assert state.host_keys == {}
    assert refused(state, team.UnpinHostKeys(host="git.example.com")).code == "not_found"


@pytest.mark.parametrize(
    ("host", "keys"),
    [
        ("git.example.com", ()),
        ("git.example.com", (ED25519,) * 21),
        ("git.example.com", ("ssh-ed25519 AAAA",)),
        ("git.example.com", (ED25519 + " comment",)),
        ("git.example.com", (ED25519 + "\n* ssh-ed25519 AAAA",)),
        ("git.example.com", ("ssh-rsa " + ED25519.split()[1],)),
        ("git.example.com", ("@cert-authority " + ED25519,)),
        ("git.example.com:22", (ED25519,)),
        ("*", (ED25519,)),
    ],
)
def test_what_is_no_host_key_is_not_pinned(host: str, keys: tuple[str, ...]) -> None:
    assert refused(after(), team.PinHostKeys(host=host, keys=keys)).code == "invalid"


def test_they_end_with_the_team() -> None:
    state = after(
        team.AddCredential(name="ci", credential=token("https://git.example.com")),
        team.PinHostKeys(host="git.example.com", keys=(ED25519,)),
    )
    gone = team.apply(state, team.TeamDeleted(), 2)
    assert gone.credentials == {} and gone.host_keys == {}
    assert after(team.CreateTeam(name="red"), state=gone).credentials == {}


def test_what_counts_of_a_url_is_its_host_port_and_directories() -> None:
    where = where_of("ssh://git@Host.example.com/~ada/x.git")
    assert where is not None and (where.host, where.port, where.path) == ("host.example.com", 22, ("~ada", "x"))
