"""Compose files as people write them, and what each comes to here; nothing of them is dropped in silence."""

import pytest

from actors.compose import values
from actors.compose.interpolate import interpolated, variables_of
from actors.compose.mapping import map_compose
from actors.compose.model import ComposeApp, ComposeComponent, ComposeError

BLOG = """
version: "3.9"
services:
  wordpress:
    image: wordpress:6
    depends_on: {db: {condition: service_healthy}}
    restart: always
    ports: ["127.0.0.1:8080:80", "8443:443"]
    environment:
      WORDPRESS_DB_HOST: db:3306
      WORDPRESS_DB_PASSWORD: ${DB_PASSWORD:?a password}
    volumes: [html:/var/www/html]
    deploy:
      replicas: 2
      resources: {limits: {cpus: "0.5", memory: 768M}}
  db:
    image: mariadb
    command: ["--max-connections=200", "--sort_buffer_size=4M"]
    environment: [MARIADB_DATABASE=wordpress, DB_PASSWORD]
    expose: [3306]
    healthcheck: {test: [CMD, healthcheck.sh, --connect], start_period: 1m30s}
    stop_grace_period: 1m
    ulimits: {nofile: {soft: 1024, hard: 8192}}
    volumes:
      - type: volume
        source: data
        target: /var/lib/mysql
volumes: {html: {}, data: {}}
"""

STACK = """
name: My Shop
x-common: &common
  env_file: [common.env, {path: absent.env, required: false}]
  restart: unless-stopped
services:
  Front_End:
    <<: *common
    build: {context: ./web, dockerfile: prod.Dockerfile, target: run, args: {A: 1}}
    ports:
      - {target: 3000, published: 80, protocol: tcp}
      - "5353:53/udp"
    healthcheck: {test: "curl -fsS http://localhost:3000/healthz?full=1 || exit 1"}
    links: ["api:backend"]
    networks: [inner]
  api:
    <<: *common
    build: ./api
    command: gunicorn -b 0.0.0.0:8000 'shop.wsgi'
    expose: ["8000"]
    environment: {DEBUG: false, PRICE: $$5, HOME_PAGE: "${HOST-shop.example}", TAG: "${TAG}"}
    privileged: true
    labels:
      - "traefik.http.routers.api.rule=Host(`shop.example`)"
      - "traefik.http.services.api.loadbalancer.server.port=8000"
    flux_capacitor: 1.21
  worker:
    <<: *common
    build: ./api
    restart: on-failure
    depends_on: [api]
networks: {inner: {internal: true}}
include: [other.yaml]
"""


def read_of(files: dict[str, str]) -> ComposeApp:
    text = files.pop("compose.yaml")
    return map_compose(text, name="fallback", variables={"DB_PASSWORD": "s3cret"}, read=files.get)


def by_name(app: ComposeApp) -> dict[str, ComposeComponent]:
    return {each.name: each for each in app.components}


def notes_of(app: ComposeApp, service: str) -> dict[str, str]:
    return {note.key: note.text for note in app.notes if note.service == service}


def test_a_blog_and_its_database() -> None:
    app = read_of({"compose.yaml": BLOG})
    assert [each.name for each in app.components] == ["db", "wordpress"]
    wordpress, db = by_name(app)["wordpress"], by_name(app)["db"]

    assert (app.name, wordpress.image, db.image) == ("fallback", "wordpress:6", "mariadb:latest")
    assert (wordpress.http, wordpress.port, wordpress.scale, wordpress.needs) == (True, 80, 2, ("db",))
    assert wordpress.settings == {"memory_bytes": 768 << 20}
    assert wordpress.config["WORDPRESS_DB_PASSWORD"] == "s3cret"
    assert db.config == {"MARIADB_DATABASE": "wordpress", "DB_PASSWORD": "s3cret"}
    assert db.settings == {"grace_seconds": 60, "open_files": 8192, "start_timeout_seconds": 90}
    assert set(notes_of(app, "wordpress")) == {"ports", "volumes", "deploy.resources", "depends_on"}
    assert set(notes_of(app, "db")) == {"command", "healthcheck", "volumes"}
    assert "gone" in notes_of(app, "db")["volumes"]


def test_a_stack_built_from_source() -> None:
    app = read_of({"compose.yaml": STACK, "common.env": "export LEVEL=info # quiet\nQUOTED='a b'\n"})
    front, api, worker = (by_name(app)[name] for name in ("front-end", "api", "worker"))

    assert app.name == "my-shop"
    assert [each.name for each in app.components] == ["api", "front-end", "worker"]
    assert (front.directory, front.dockerfile, front.port, front.probe_path) == (
        "./web", "prod.Dockerfile", 3000, "/healthz?full=1",
    )  # fmt: skip
    assert front.config == {"LEVEL": "info", "QUOTED": "a b"}
    assert api.config | {} == {
        "LEVEL": "info", "QUOTED": "a b", "DEBUG": "false", "PRICE": "$5", "HOME_PAGE": "shop.example", "TAG": "",
    }  # fmt: skip
    assert (worker.http, worker.port, worker.needs) == (False, None, ("api",))
    told = notes_of(app, "Front_End")
    assert told["(name)"] == "is called front-end here"
    assert {"build.target", "build.args", "build.dockerfile", "env_file", "networks"} <= set(told)
    assert any("53/udp" in note.text for note in app.notes)
    told = notes_of(app, "api")
    assert told["command"].endswith("web: gunicorn -b 0.0.0.0:8000 'shop.wsgi'")
    assert {"privileged", "flux_capacitor", "$TAG", "labels"} <= set(told)
    assert "ports" not in told and api.port == 8000
    assert "rayfold run" in notes_of(app, "worker")["restart"]
    assert set(notes_of(app, "")) == {"include"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "expected YAML"),
        ("- a", "expected `services:`"),
        ("services: {}", "expected `services:`"),
        ("services: {a: 5}", "services.a"),
        ("services: {a: {}}", "expected image or build"),
        ("services: {a: {image: x, depends_on: [b]}}", "expected one of a, found 'b'"),
        ("services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}", "circle: a, b"),
        ("services: {a_b: {image: x}, a-b: {image: y}}", "more than one that comes to 'a-b'"),
        ("services: {a: {image: x, ports: ['x:y']}}", "expected a port such as 8080:80"),
        ("services: {a: {image: x, mem_limit: lots}}", "expected a size such as 512m"),
        ("services: {a: {image: x, scale: 9999}}", "expected 0 to 100"),
        ("services: {a: {image: '${X:?say which}'}}", "the variable X: say which"),
        ("services: {a: {image: 'x$'}}", "a lone \\$"),
        ("services: {a: {image: !!python/object/apply:os.system [id]}}", "expected YAML"),
        ("services: &a {a: *a}", "too deep"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, told: str) -> None:
    with pytest.raises(ComposeError, match=told):
        read_of({"compose.yaml": text})


def test_a_bomb_of_aliases_is_refused() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ComposeError, match="more than"):
        read_of({"compose.yaml": "\n".join([*rows, "services: {a: {image: x, labels: *a11}}"])})


def test_short_forms() -> None:
    assert [values.size(text) for text in ("512m", "1.5g", "1024", "2GB", "64k", "1KiB")] == [
        512 << 20, 1536 << 20, 1024, 2 << 30, 64 << 10, 1024,
    ]  # fmt: skip
    assert [values.seconds(text) for text in ("10s", "1m30s", "500ms", "2h", 5, "1m")] == [10, 90, 1, 7200, 5, 60]
    listed = list(values.ports(["80", "8080:81", "127.0.0.1:8082:82/udp", "9000-9001:90-91", "[::1]:1:83"]))
    assert [(port.target, port.published, port.protocol) for port in listed] == [
        (80, "", "tcp"), (81, "8080", "tcp"), (82, "8082", "udp"), (90, "9000-9001", "tcp"), (83, "1", "tcp"),
    ]  # fmt: skip
    assert values.probe_of(["CMD", "wget", "-q", "http://127.0.0.1/ping"]) == "/ping"
    assert values.probe_of("pg_isready -h localhost") == ""


def test_variables() -> None:
    missing: list[str] = []

    def of(text: str) -> str:
        return interpolated(text, {"A": "1", "E": ""}, missing.append)

    assert of("$A ${A} $$A ${E:-x} ${E-x} ${N:-${A}} ${A:+y} ${E:+y} ${N+y}") == "1 1 $A x  1 y  "
    assert of("<${GONE}>") == "<>" and missing == ["GONE"]
    assert variables_of("A=1\n# no\nB=\"x y\"\nC=a # b\nnothing\nexport D=2") == {
        "A": "1", "B": "x y", "C": "a", "D": "2",
    }  # fmt: skip
