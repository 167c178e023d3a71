"""Files that change while the webhook serves: read again, or passed over and named."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from istio_init.inject import reload
from istio_init.inject.app import Health
from istio_init.inject.configuration import LONGEST, ConfigurationFiles
from istio_init.inject.problems import InjectionError
from istio_init.inject.reload import Reloader
from istio_init.inject.webhook_metrics import WebhookMetrics
from istio_init.log import Log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

GOOD = "policy: enabled\ntemplates: {sidecar: ''}\n"


class Watched:
    """A mounted ConfigMap with one file, as the kubelet writes it, and who watches it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.file = folder / "config"
        self.loaded: list[str] = []
        self.metrics, self.health = WebhookMetrics(), Health()
        self.swap("first")
        (folder / "config").symlink_to("..data/config")

    def swap(self, text: str) -> None:
        """Put another version in the place of the folder that the file is in."""
        self.number += 1
        version = self.folder / f"..{self.number}"
        version.mkdir()
        (version / "config").write_text(text, encoding="utf-8")
        (self.folder / "..tmp").symlink_to(version.name)
        (self.folder / "..tmp").rename(self.folder / "..data")

    async def load(self) -> None:
        text = self.file.read_text(encoding="utf-8")
        if "bad" in text:
            raise InjectionError([])
        self.loaded.append(text)

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        async def watch_and_test() -> None:
            reloader = Reloader(self.metrics, self.health, Log("none"))
            task = asyncio.create_task(reloader.watch("config", [str(self.file)], self.load))
            await asyncio.sleep(0)
            await test()
            task.cancel()

        asyncio.run(watch_and_test())

    def shows(self, line: str) -> bool:
        return line.encode() in self.metrics.text().splitlines()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(reload, "INTERVAL", 0.02)
    monkeypatch.setattr(reload, "SETTLING", 0.01)
    return Watched(tmp_path)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 - what happens is another's
            await asyncio.sleep(0.01)


def test_a_file_that_is_swapped_is_read_again(watched: Watched) -> None:
    async def test() -> None:
        await asyncio.sleep(0.1)
        assert watched.loaded == []
        for text in ("second", "third"):
            watched.swap(text)
            await until(lambda: watched.loaded[-1:] == [text])  # noqa: B023
        await until(
            lambda: watched.shows(
                'istio_init_webhook_reloads_total{result="success",what="config"} 2.0'
            )
        )

    watched.run(test)


def test_a_bad_file_is_passed_over_and_named(watched: Watched) -> None:
    async def test() -> None:
        watched.swap("bad")
        await until(lambda: "config" in watched.health.notes)
        assert "stays in use" in watched.health.notes["config"]
        assert watched.health.is_ready
        assert watched.shows('istio_init_webhook_stale{what="config"} 1.0')
        watched.swap("good")
        await until(lambda: watched.loaded == ["good"])
        assert watched.health.notes == {}
        assert watched.shows('istio_init_webhook_stale{what="config"} 0.0')

    watched.run(test)


def test_a_file_that_vanishes_and_comes_back(watched: Watched) -> None:
    async def test() -> None:
        watched.file.unlink()
        await until(lambda: "No such file" in watched.health.notes.get("config", ""))
        watched.file.write_text("new", encoding="utf-8")
        await until(lambda: watched.loaded == ["new"])

    watched.run(test)


def files(path: Path | str) -> ConfigurationFiles:
    return ConfigurationFiles(str(path), None, None, "", {})


def test_a_configuration_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(GOOD, encoding="utf-8")

    assert callable(files(tmp_path / "config").read()())
    assert files("a").paths == ("a",)
    assert callable(ConfigurationFiles(None, None, None, "", {}).read()())


BAD = {
    "a template that cannot be parsed": ("templates: {sidecar: '{{'}", "template"),
    "a template that fails": ("templates: {sidecar: '{{ fail \"x\" }}'}", "refuses every pod"),
    "no inject config": ("policy: []\ntemplates: 3\n", "templates"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_configuration_names_its_file(tmp_path: Path, name: str) -> None:
    text, why = BAD[name]
    (tmp_path / "config").write_text(text, encoding="utf-8")
    load = files(tmp_path / "config").read()

    with pytest.raises(InjectionError, match=why):
        load()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "long").write_text("x" * (LONGEST + 1), encoding="ascii")
    for name, why in (("missing", "No such file"), ("binary", "no text"), ("long", "longer than")):
        with pytest.raises(InjectionError, match=why) as caught:
            files(tmp_path / name).read()
        assert str(tmp_path / name) in str(caught.value)


def test_a_word_that_is_no_choice() -> None:
    environment = {"ENABLE_NATIVE_SIDECARS": "maybe"}
    with pytest.raises(InjectionError, match="ENABLE_NATIVE_SIDECARS"):
        ConfigurationFiles(None, None, None, "", environment).read()()
