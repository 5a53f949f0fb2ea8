"""Bills of materials: what package managers wrote down is found, is valid, and does not depend on the cache."""

import json
import os
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from actors.builder.artifacts import read_manifest
from actors.builder.packages import Package, installed_in, linked_in
from actors.builder.sbom import NotASbom, PackageChange, changes, sbom, told_of, versions_in
from tests.actors.builder.conftest import EXAMPLES, Bench, write_tree

USER = (70026, 70026) if os.getuid() == 0 else None

GO = """bin/web: go1.21.5
\tpath\texample.org/web
\tmod\texample.org/web\t(devel)\t
\tdep\tgithub.com/dustin/go-humanize\tv1.0.1\th1:GzkhY7T5VNhEkwH0PVJgjz+fX1rhBrR7pRT3mDkpeCY=
\tdep\tgopkg.in/yaml.v3\tv3.0.0
\t=>\texample.org/fork/yaml\tv3.0.9\th1:x
\tbuild\t-buildmode=exe
"""


def _jar(**files: bytes) -> bytes:
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def _tree(root: Path) -> Path:
    composer = {"packages": [{"name": "monolog/monolog", "version": "3.5.0", "license": ["MIT"]}]}
    write_tree(
        root,
        {
            "bottle-0.13.2.dist-info/METADATA": "Name: bottle\nVersion: 0.13.2\nLicense: MIT\n\nx",
            "node_modules/ms/package.json": '{"name": "ms", "version": "2.1.3", "license": "MIT"}',
            "node_modules/@babel/core/package.json": '{"name": "@babel/core", "version": "7.1.0"}',
            "node_modules/a/node_modules/ms/package.json": '{"name": "ms", "version": "1.0.0"}',
            "node_modules/broken/package.json": "{",
            "vendor/composer/installed.json": json.dumps(composer),
            "ruby/3.1.0/specifications/nokogiri-1.15.4-x86_64-linux.gemspec": "",
        },
    )
    properties = b"groupId=org.slf4j\nartifactId=slf4j-api\nversion=2.0.9\n"
    inner = _jar(**{"META-INF/maven/org.slf4j/slf4j-api/pom.properties": properties})
    outer = _jar(**{"BOOT-INF/lib/slf4j-api-2.0.9.jar": inner, "BOOT-INF/lib/spring-core-6.1.0.jar": b"no archive"})
    (root / "target").mkdir()
    (root / "target/app.jar").write_bytes(outer)
    return root


def test_what_each_package_manager_wrote_down_is_found(tmp_path: Path) -> None:
    assert {package.purl for package in installed_in(_tree(tmp_path))} == {
        "pkg:pypi/bottle@0.13.2",
        "pkg:npm/ms@2.1.3",
        "pkg:npm/ms@1.0.0",
        "pkg:npm/%40babel/core@7.1.0",
        "pkg:composer/monolog/monolog@3.5.0",
        "pkg:gem/nokogiri@1.15.4",
        "pkg:maven/org.slf4j/slf4j-api@2.0.9",
        "pkg:maven/spring-core@6.1.0",
    }


def test_a_go_program_tells_its_modules_the_replaced_ones_by_what_replaces_them() -> None:
    assert {package.purl for package in linked_in(GO)} == {
        "pkg:golang/example.org/fork/yaml@v3.0.9",
        "pkg:golang/github.com/dustin/go-humanize@v1.0.1",
        "pkg:golang/std@1.21.5",
    }


def test_the_document_is_valid_and_a_function_of_the_packages(tmp_path: Path) -> None:
    packages = installed_in(_tree(tmp_path))
    made = sbom(packages, language="python", runtime="python3.11")
    assert made == sbom(reversed([*packages, packages[0]]), language="python", runtime="python3.11")
    told = told_of(made, name="default/shop/web", version="abc", properties={"commit": "1234", "author": ""})
    for document in (made, told, sbom([], language="static", runtime="system")):
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode())
        assert problem is None, problem
    metadata = json.loads(told)["metadata"]
    assert metadata["component"]["name"] == "default/shop/web"
    assert {"name": "rayfold:commit", "value": "1234"} in metadata["properties"]


def test_what_changed_is_told_by_package() -> None:
    def bill(*packages: tuple[str, str]) -> dict[str, list[str]]:
        listed = [Package(kind="npm", name=name, version=version) for name, version in packages]
        return versions_in(sbom(listed, language="node", runtime="node20"))

    before = bill(("ms", "2.0.0"), ("ms", "1.0.0"), ("gone", "1"), ("same", "3"))
    after = bill(("ms", "2.1.3"), ("ms", "1.0.0"), ("new", "1"), ("same", "3"))
    assert changes(before, after) == [
        PackageChange(package="pkg:npm/gone", before="1", after=""),
        PackageChange(package="pkg:npm/ms", before="1.0.0, 2.0.0", after="1.0.0, 2.1.3"),
        PackageChange(package="pkg:npm/new", before="", after="1"),
    ]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"bomFormat": 5}'])
def test_what_is_no_bill_is_refused(content: bytes) -> None:
    with pytest.raises(NotASbom, match="expected a bill of materials"):
        versions_in(content)


def test_hostile_files_are_passed_over_and_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Name: stolen\nVersion: 1\n")
    tree = tmp_path / "tree"
    (tree / "x.dist-info").mkdir(parents=True)
    (tree / "x.dist-info/METADATA").symlink_to(secret)
    (tree / "y.dist-info").symlink_to(tmp_path)
    (tree / "z.dist-info").mkdir()
    os.mkfifo(tree / "z.dist-info/METADATA")
    (tree / "loop").symlink_to(tree)
    (tree / "bomb.jar").write_bytes(b"PK\x03\x04" + b"\0" * 64)
    deep = _jar(**{"META-INF/maven/a/b/pom.properties": b"artifactId=b\nversion=" + b"9" * 1000})
    (tree / "long.jar").write_bytes(deep)
    [package] = installed_in(tree)
    assert package.name == "b" and len(package.version) == 200


@pytest.mark.servers
async def test_a_build_has_the_same_bill_from_the_registry_and_from_the_cache(bench: Bench) -> None:
    outcomes = [await bench.build(EXAMPLES / "hello-python", user=USER) for _ in range(2)]
    assert [outcome.artifact and outcome.artifact.cache_hit for outcome in outcomes] == [False, True]
    bills = []
    for outcome in outcomes:
        assert outcome.artifact is not None
        manifest = await read_manifest(bench.engine.store, outcome.artifact.digest)
        assert manifest.sbom is not None
        bills.append((await bench.engine.store.local_path(manifest.sbom.digest)).read_bytes())
    assert bills[0] == bills[1]
    assert versions_in(bills[0]) == {"pkg:pypi/bottle": ["0.13.2"], "pkg:pypi/waitress": ["3.0.2"]}
