"""What a Compose file comes to here: components, in the order in which they can be started, and what is lost."""

import msgspec


class ComposeError(Exception):
    """The file cannot be read as one of Compose; the message says where, what was expected, found and what to do."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something of the file that has no counterpart here, or another one. `service` empty: of the whole file."""

    service: str
    key: str
    text: str


class ComposeComponent(msgspec.Struct, frozen=True, kw_only=True):
    """One service as a component. Sizes in bytes, times in seconds; None and 0: as it is by default.

    `image` or `directory` (relative to the file) is where it comes from. `port`: where it listens, if anything is
    published or exposed. `needs`: the components that come before it.
    """

    name: str
    service: str
    image: str = ""
    directory: str = ""
    dockerfile: str = ""
    config: dict[str, str] = {}
    http: bool = False
    port: int | None = None
    probe_path: str = ""
    scale: int = 1
    settings: dict[str, int] = {}
    needs: tuple[str, ...] = ()


class ComposeApp(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file; `components` in an order in which each comes after what it needs."""

    name: str
    components: tuple[ComposeComponent, ...]
    notes: tuple[Note, ...] = ()
