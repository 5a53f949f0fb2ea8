"""The incremental-xDS conversation: order, acknowledgement, refusal, taking over what Envoy holds."""

from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.catalog import CDS, EDS, LDS, ROUTES, Catalog, Resource
from actors.gateway.session import Incoming, Outgoing, Session


def resource(name: str, version: str = "1", *needs: str) -> Resource:
    return Resource(name=name, version=version, body=b"", needs=needs)


def request(
    type_url: str, nonce: str = "", *subscribe: str, error: str = "", held: dict[str, str] | None = None
) -> Incoming:
    return Incoming(type_url, nonce, subscribe, (), held or {}, error)


def take(session: Session) -> list[Outgoing]:
    return list(iter(session.take, None))


class Talk:
    """A catalog, a session, and a well-behaved Envoy to answer it."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.session = Session(self.catalog)
        self.refuse: set[str] = set()
        self.sent: list[tuple[str, str]] = []

    def put(self, type_url: str, *resources: Resource) -> None:
        self._change({type_url: {one.name: one for one in resources}})

    def drop(self, type_url: str, *names: str) -> None:
        self._change({type_url: dict.fromkeys(names)})

    def component(self, name: str, version: str = "1") -> None:
        self._change(
            {
                CDS: {name: resource(name)},
                EDS: {name: resource(name, version)},
                ROUTES: {f"{name}.host": resource(f"{name}.host", version, name)},
            }
        )

    def run(self) -> None:
        """Answer everything until nothing more comes."""
        while messages := take(self.session):
            for message in messages:
                self._answer(message)

    def connect(self) -> None:
        for type_url in (CDS, LDS, ROUTES):
            self.session.receive(request(type_url))

    def _answer(self, message: Outgoing) -> None:
        names = [one.name for one in message.resources]
        self.sent += [(message.type_url, name) for name in (*names, *message.removed)]
        error = "bad" if self.refuse & set(names) else ""
        self.session.receive(request(message.type_url, message.nonce, error=error))
        if message.type_url == CDS and not error:
            self.session.receive(request(EDS, "", *names))

    def _change(self, changes: dict[str, dict[str, Resource | None]]) -> None:
        for type_url, names in self.catalog.update(changes).items():
            self.session.changed(type_url, names, self.catalog.generation)


def test_clusters_go_before_endpoints_before_routes() -> None:
    talk = Talk()
    talk.put(LDS, resource("http"))
    talk.component("a")
    talk.connect()
    talk.run()

    assert talk.sent == [(CDS, "a"), (LDS, "http"), (EDS, "a"), (ROUTES, "a.host")]
    assert talk.session.settled() == talk.catalog.generation


def test_a_route_waits_for_the_endpoints_of_its_cluster() -> None:
    talk = Talk()
    talk.connect()
    talk.run()
    talk.component("a")

    (clusters,) = take(talk.session)
    talk.session.receive(request(CDS, clusters.nonce))
    assert take(talk.session) == []
    assert talk.session.settled() < talk.catalog.generation

    talk.session.receive(request(EDS, "", "a"))
    (endpoints,) = take(talk.session)
    talk.session.receive(request(EDS, endpoints.nonce))
    (routes,) = take(talk.session)
    assert [one.name for one in routes.resources] == ["a.host"]


def test_a_cluster_goes_after_its_routes_are_gone() -> None:
    talk = Talk()
    talk.component("a")
    talk.connect()
    talk.run()
    talk.sent.clear()

    talk._change({CDS: {"a": None}, EDS: {"a": None}, ROUTES: {"a.host": None}})
    talk.run()

    assert talk.sent == [(ROUTES, "a.host"), (CDS, "a")]
    assert talk.session.settled() == talk.catalog.generation


def test_one_change_sends_one_resource() -> None:
    talk = Talk()
    for number in range(1200):
        talk.component(f"c{number}")
    talk.connect()
    talk.run()
    talk.sent.clear()

    talk.put(EDS, resource("c7", "2"))
    talk.run()

    assert talk.sent == [(EDS, "c7")]


def test_an_envoy_that_comes_back_with_everything_is_sent_nothing() -> None:
    talk = Talk()
    talk.put(LDS, resource("http"))
    talk.component("a")
    talk.session.receive(request(CDS, held={"a": "1"}))
    talk.session.receive(request(EDS, "", "a", held={"a": "1"}))
    talk.session.receive(request(LDS, held={"http": "1"}))
    talk.session.receive(request(ROUTES, held={"a.host": "1"}))
    talk.run()

    assert talk.sent == []
    assert talk.session.settled() == talk.catalog.generation


def test_an_envoy_that_comes_back_is_sent_the_difference() -> None:
    talk = Talk()
    talk.put(LDS, resource("http"))
    talk.component("a", "2")
    talk.session.receive(request(CDS, held={"a": "1", "gone": "1"}))
    talk.session.receive(request(EDS, "", "a", "gone", held={"a": "1", "gone": "1"}))
    talk.session.receive(request(LDS, held={"http": "1"}))
    talk.session.receive(request(ROUTES, held={"a.host": "2", "gone.host": "1"}))
    talk.run()

    assert talk.sent == [(EDS, "a"), (ROUTES, "gone.host"), (CDS, "gone")]


def test_nothing_is_settled_before_envoy_has_asked() -> None:
    talk = Talk()
    talk.component("a")

    assert talk.session.settled() == -1


def test_a_refusal_is_isolated_to_the_bad_resource_and_the_rest_goes_through() -> None:
    talk = Talk()
    talk.refuse = {"bad"}
    for name in ("a", "bad", "z"):
        talk.component(name)
    talk.connect()
    talk.run()

    assert [(one.type_url, one.name, one.detail) for one in talk.session.rejections()] == [(CDS, "bad", "bad")]
    assert (ROUTES, "z.host") in talk.sent
    assert talk.session.settled() == talk.catalog.generation


def test_a_refusal_ends_when_a_later_version_is_taken() -> None:
    talk = Talk()
    talk.connect()
    talk.put(EDS, resource("a"))
    talk.put(CDS, resource("a"))
    talk.run()
    talk.refuse = {"a"}
    talk.put(EDS, resource("a", "2"))
    talk.run()
    assert [one.version for one in talk.session.rejections()] == ["2"]

    talk.refuse = set()
    talk.put(EDS, resource("a", "3"))
    talk.run()
    assert talk.session.rejections() == ()


def test_changes_during_a_flight_are_settled_by_their_own_acknowledgement() -> None:
    talk = Talk()
    talk.component("a")
    talk.connect()
    talk.run()
    talk.put(EDS, resource("a", "2"))
    (first,) = take(talk.session)
    before = talk.catalog.generation
    talk.put(EDS, resource("a", "3"))

    talk.session.receive(request(EDS, first.nonce))
    assert talk.session.settled() == before
    talk.run()
    assert talk.session.settled() == talk.catalog.generation


def test_a_listener_sent_again_gets_all_routes_again_because_it_does_not_ask() -> None:
    talk = Talk()
    talk.put(LDS, resource("http"))
    talk.component("a")
    talk.connect()
    talk.run()
    talk.sent.clear()

    talk.put(LDS, resource("http", "2"))
    talk.run()

    assert talk.sent == [(LDS, "http"), (ROUTES, "a.host")]


def test_nothing_is_settled_while_the_listener_is_refused_and_it_is_offered_again() -> None:
    talk = Talk()
    talk.refuse = {"http"}
    talk.put(LDS, resource("http"))
    talk.component("a")
    talk.connect()
    talk.run()
    assert talk.session.settled() == -1
    assert [one.name for one in talk.session.rejections()] == ["http"]

    talk.refuse = set()
    assert talk.session.retry(LDS)
    talk.run()
    assert talk.session.rejections() == ()
    assert talk.session.settled() == talk.catalog.generation


def test_a_change_taken_back_before_it_was_sent_is_not_sent() -> None:
    talk = Talk()
    talk.component("a")
    talk.connect()
    talk.run()
    talk.sent.clear()

    talk.put(EDS, resource("a", "2"))
    talk.put(EDS, resource("a", "1"))
    talk.run()

    assert talk.sent == []
    assert talk.session.settled() == talk.catalog.generation


steps = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["1", "2", "3", "gone", "answer"])), max_size=30)


@given(steps)
def test_whatever_happens_in_which_order_envoy_ends_with_the_catalog(history: list[tuple[str, str]]) -> None:
    talk = Talk()
    talk.connect()
    held: dict[str, dict[str, str]] = {type_url: {} for type_url in (CDS, EDS, LDS, ROUTES)}
    waiting: list[Outgoing] = []

    def answer() -> None:
        message = waiting.pop(0)
        for one in message.resources:
            for cluster in one.needs:
                assert cluster in held[CDS] and cluster in held[EDS]
            held[message.type_url][one.name] = one.version
        for name in message.removed:
            assert message.type_url != CDS or f"{name}.host" not in held[ROUTES]
            held[message.type_url].pop(name, None)
        talk.session.receive(request(message.type_url, message.nonce))
        if message.type_url == CDS:
            new = [one.name for one in message.resources if one.name not in held[EDS]]
            talk.session.receive(Incoming(EDS, "", tuple(new), message.removed, {}, ""))
            for name in message.removed:
                held[EDS].pop(name, None)

    for name, what in history:
        if what == "gone":
            talk._change({CDS: {name: None}, EDS: {name: None}, ROUTES: {f"{name}.host": None}})
        elif what != "answer":
            talk.component(name, what)
        elif waiting:
            answer()
        waiting += take(talk.session)
    waiting += take(talk.session)
    while waiting:
        answer()
        waiting += take(talk.session)

    for type_url, names in held.items():
        assert names == {name: talk.catalog.version(type_url, name) for name in talk.catalog.names(type_url)}
    assert talk.session.settled() == talk.catalog.generation


def test_what_could_not_be_read_stays_as_envoy_has_it_and_the_rest_is_kept_up() -> None:
    """The log is damaged: `old` is known as of before that, of `lost` nothing is."""
    talk = Talk()
    talk.put(LDS, resource("http"))
    for name in ("old", "new"):
        talk.component(name, "2")
    held = {"old": "7", "new": "1", "lost": "1"}
    hosts = {f"{name}.host": version for name, version in held.items()}
    talk.session.receive(request(CDS, held=dict.fromkeys(held, "1")))
    talk.session.receive(request(EDS, "", *held, held=held))
    talk.session.receive(request(LDS, held={"http": "1"}))
    talk.session.receive(request(ROUTES, held=hosts))
    talk.catalog.leave(frozenset({"old", "old.host"}))
    talk.run()

    assert talk.sent == [(EDS, "new"), (ROUTES, "new.host")]
    assert talk.session.settled() == talk.catalog.generation
    talk.sent.clear()
    talk.drop(ROUTES, "new.host")
    talk.run()
    assert talk.sent == [(ROUTES, "new.host")], "what was known goes when it goes"


def test_an_envoy_without_anything_is_given_what_could_be_read() -> None:
    talk = Talk()
    talk.put(LDS, resource("http"))
    talk.component("old")
    talk.catalog.leave(frozenset({"old", "old.host"}))
    talk.connect()
    talk.run()
    assert (ROUTES, "old.host") in talk.sent
