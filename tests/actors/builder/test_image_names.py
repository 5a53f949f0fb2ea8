"""Which file is built and which image is meant: what is decided without a container engine."""

from pathlib import Path

import pytest

from actors.builder.errors import DetectionError
from actors.builder.images import choose_dockerfile
from actors.containers.errors import ImageRefused
from actors.containers.reference import parse_reference
from tests.actors.builder.conftest import write_tree


def test_one_of_up_to_five_dockerfiles_is_chosen(tmp_path: Path) -> None:
    two = write_tree(tmp_path / "two", {"api/Dockerfile": "", "web/Dockerfile": ""})
    with pytest.raises(DetectionError, match="api/Dockerfile, web/Dockerfile") as caught:
        choose_dockerfile(two, None)
    assert caught.value.code == "dockerfile_ambiguous"
    assert choose_dockerfile(two, "web/Dockerfile") == ("web/Dockerfile", ("api/Dockerfile",))
    top = write_tree(tmp_path / "top", {"Dockerfile": "", "Dockerfile.dev": ""})
    assert choose_dockerfile(top, None) == ("Dockerfile", ("Dockerfile.dev",))
    (top / "Dockerfile.link").symlink_to("/etc/passwd")
    for wrong in ("Dockerfile.link", "nowhere", "../two/api/Dockerfile"):
        with pytest.raises(DetectionError, match="is no file of the source"):
            choose_dockerfile(top, wrong)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("team/app:1.2", "docker.io/team/app:1.2"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        (f"ghcr.io/a/b:1@sha256:{'a' * 64}", f"ghcr.io/a/b@sha256:{'a' * 64}"),
    ],
)
def test_names_of_images_are_read_as_docker_reads_them(text: str, read: str) -> None:
    assert str(parse_reference(text)) == read


@pytest.mark.parametrize("text", ["", "UPPER/x", "a b", "x@sha256:12", "x:", "-x/y", "x/../y", "x:1:2", "a" * 600])
def test_what_is_no_name_of_an_image(text: str) -> None:
    with pytest.raises(ImageRefused, match="Expected an image"):
        parse_reference(text)
