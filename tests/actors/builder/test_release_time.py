"""What a finished build tells the log of itself: how long its release command may take, where its image is reached."""

import msgspec
import pytest

from actors.builder.actor import artifact_of
from actors.builder.model import Artifact, ComponentSettings
from actors.builder.settings import parse_settings


def built(settings: ComponentSettings, command: str | None = "migrate") -> Artifact:
    return Artifact(
        digest="d", size_bytes=1, processes={"web": "w"}, release_command=command, language="python", runtime="",
        detected="", settings=settings,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "operator", "seconds"),
    [
        ("", {}, 600),
        ("[build.timeouts]\nrelease = 2.5", {}, 3),
        ("", {"release": 1200.0}, 1200),
        ("[build.timeouts]\nrelease = 50", {"release": 1200.0}, 50),
        ("[build.timeouts]\nbuild = 50", {"build": 20.0}, 600),
    ],
)
def test_what_the_source_says_counts_before_what_the_operator_says(
    text: str, operator: dict[str, float], seconds: int
) -> None:
    settings, _ = parse_settings(text)
    assert artifact_of(built(settings), operator).release_seconds() == seconds


@pytest.mark.parametrize(("runtime", "told"), [("image", {"port": "8080"}), ("python3.11", {})])
def test_the_port_of_an_image_is_told_and_is_no_setting_of_its_component(runtime: str, told: dict[str, str]) -> None:
    settings, _ = parse_settings("[component]\nport = 8080")

    artifact = artifact_of(msgspec.structs.replace(built(settings, None), runtime=runtime), {})

    assert (artifact.settings, artifact.of_component()) == (told, {})


def test_nothing_is_said_where_there_is_no_release_command() -> None:
    assert artifact_of(built(ComponentSettings(), None), {"release": 5.0}).settings == {}
