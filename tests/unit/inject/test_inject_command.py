"""The commands inject and uninject, called as their users call them."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from contextlib import redirect_stderr
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from istio_init.cli import manifest_run, replace_files, terminal
from istio_init.cli.replace_files import ReplaceError, Replacement
from istio_init.inject.yaml import load, load_documents
from tests.unit.inject.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEPLOYMENT = """\
# web
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: nginx
"""
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}"
BAD = DEPLOYMENT.replace(
    "      labels", "      annotations: {sidecar.istio.io/interceptionMode: x}\n      labels"
)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def write(folder: Path, **files: str) -> dict[str, Path]:
    paths = {}
    for name, text in files.items():
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_bytes(text.encode())
    return paths


def test_one_file_goes_to_standard_output_and_back(tmp_path: Path) -> None:
    (file,) = write(tmp_path, app=DEPLOYMENT).values()
    injected = run("inject", "-f", str(file))
    assert (injected.code, injected.err) == (0, "")
    spec = load(injected.out)["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["initContainers"]] == ["istio-init"]
    freed = run("uninject", "-f", "-", stdin=injected.out.encode())
    assert (freed.code, freed.out, freed.err) == (0, DEPLOYMENT, "")
    assert file.read_text() == DEPLOYMENT


def test_the_names_of_istioctl_work(tmp_path: Path) -> None:
    (file,) = write(tmp_path, app=DEPLOYMENT).values()
    config = tmp_path / "config"
    config.write_text(
        "policy: enabled\ntemplates:\n  sidecar: |\n"
        "    spec:\n      containers:\n      - name: istio-proxy\n"
        "        image: {{ .Values.image }}{{ .MeshConfig.TrustDomain }}\n"
    )
    values = tmp_path / "values"
    values.write_text('{"image": "proxy:"}')
    mesh = tmp_path / "mesh"
    mesh.write_text("trustDomain: here\n")
    output = tmp_path / "out.yaml"
    call = ["kube-inject", "--filename", str(file), "--output", str(output), "-i", "istio-system"]
    call += ["--injectConfigFile", str(config), "--valuesFile", str(values)]
    done = run(*call, "--meshConfigFile", str(mesh), "--revision", "canary")
    assert (done.code, done.out) == (0, ""), done.err
    template = load(output.read_bytes())["spec"]["template"]
    assert template["spec"]["containers"][1]["image"] == "proxy:here"
    status = json.loads(template["metadata"]["annotations"]["sidecar.istio.io/status"])
    assert status["revision"] == "canary"
    assert stat.S_IMODE(output.stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_environment_says_whether_proxies_are_native(tmp_path: Path) -> None:
    (file,) = write(tmp_path, app=DEPLOYMENT).values()
    native = run("inject", "-f", str(file), env={"ENABLE_NATIVE_SIDECARS": "true"})
    plain = run(
        "inject", "-f", str(file), "--native-sidecars=false", env={"ENABLE_NATIVE_SIDECARS": "true"}
    )
    assert [
        [one["name"] for one in load(done.out)["spec"]["template"]["spec"]["initContainers"]]
        for done in (native, plain)
    ] == [["istio-init", "istio-proxy"], ["istio-init"]]
    bad = run("inject", "-f", str(file), env={"ENABLE_NATIVE_SIDECARS": "maybe"})
    assert bad.code == 2
    assert "maybe" in bad.err


def test_several_files_become_one_stream(tmp_path: Path) -> None:
    files = write(tmp_path, one=SERVICE, two=DEPLOYMENT, three="---\na: 1\n")
    done = run("inject", *(f"-f={path}" for path in files.values()), "-f", "-", stdin=b"b: 2\n")
    assert done.code == 0
    values = [document.value for document in load_documents(done.out)]
    assert [len(value) for value in values] == [3, 4, 1, 1]
    assert done.err == "4 files, 1 changed: 1 workload injected\n"


def test_files_of_a_folder_are_written_in_place_and_show_what_changed(tmp_path: Path) -> None:
    files = write(tmp_path, app=DEPLOYMENT, other=SERVICE)
    (tmp_path / "notes.txt").write_text("{{ no manifest }}")
    (tmp_path / "deep").mkdir()
    deep = write(tmp_path / "deep", app=DEPLOYMENT)["app"]
    files["app"].chmod(0o640)
    before = files["other"].stat()
    done = run("inject", "-f", str(tmp_path), "--in-place", "--diff")
    assert done.code == 0
    assert done.err == "2 files, 1 written: 1 workload injected\n"
    assert f"--- {files['app']}" in done.out
    assert "+      - name: istio-proxy" in done.out
    assert "istio-proxy" in files["app"].read_text()
    assert stat.S_IMODE(files["app"].stat().st_mode) == 0o640
    assert files["other"].stat() == before
    assert deep.read_text() == DEPLOYMENT
    assert run("inject", "-R", "-f", str(tmp_path), "--in-place").code == 0
    assert "istio-proxy" in deep.read_text()
    back = run("uninject", "-R", "-f", str(tmp_path), "--in-place")
    assert back.err == "3 files, 2 written: 2 workloads restored\n"
    assert files["app"].read_text() == deep.read_text() == DEPLOYMENT
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("app.yaml", "deep", "notes.txt", "other.yaml"),
    ]


def test_a_diff_alone_writes_nothing(tmp_path: Path) -> None:
    (file,) = write(tmp_path, app=DEPLOYMENT).values()
    done = run("inject", "-f", str(file), "--diff")
    assert done.code == 0
    removed = [line for line in done.out.splitlines() if line.startswith("-")]
    assert removed == [f"--- {file}"]
    assert file.read_text() == DEPLOYMENT


def test_one_bad_file_among_the_good_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    files = write(tmp_path, a=DEPLOYMENT, b=BAD, c="a: [\n", d=DEPLOYMENT)
    done = run("inject", "-f", str(tmp_path), "-f", str(tmp_path / "gone"), "--in-place")
    assert (done.code, done.out) == (2, "")
    assert f"{files['b']}:9 (document 1): error: Deployment web: annotation" in done.err
    assert f"{files['c']}:2 (document 1): error: invalid YAML" in done.err
    assert f"{tmp_path / 'gone'}: error: cannot be read: No such file" in done.err
    assert files["a"].read_text() == files["d"].read_text() == DEPLOYMENT
    assert len(list(tmp_path.iterdir())) == 4


def test_a_warning_goes_to_standard_error(tmp_path: Path) -> None:
    text = DEPLOYMENT.replace("{app: web}", '{app: web, sidecar.istio.io/inject: "false"}')
    (file,) = write(tmp_path, app=text).values()
    done = run("inject", "-f", str(file))
    assert (done.code, done.out) == (0, text)
    assert "warning: Deployment web: it is not injected" in done.err


def test_a_link_is_followed_where_it_is_named_and_stays(tmp_path: Path) -> None:
    (file,) = write(tmp_path, app=DEPLOYMENT).values()
    link = tmp_path / "link"
    link.symlink_to("app.yaml")
    assert run("inject", "-f", str(link), "-f", str(file), "--in-place").code == 0
    assert link.is_symlink()
    assert file.read_text().count("name: istio-init") == 1


def test_a_link_that_leads_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (file,) = write(tmp_path, app=DEPLOYMENT).values()
    (folder / "app.yaml").symlink_to(file)
    done = run("inject", "-f", str(folder), "--in-place")
    assert done.code == 2
    assert "a link leads out of the folder" in done.err
    assert file.read_text() == DEPLOYMENT


def test_what_is_no_regular_file_is_not_written_in_place(tmp_path: Path) -> None:
    done = run("inject", "-f", "/dev/null", "--in-place")
    assert done.code == 2
    assert "no regular file" in done.err
    assert run("inject", "-f", "/dev/null", "-o", "/dev/null").code == 0
    assert run("inject", "-f", "/dev/null", "-o", str(tmp_path)).code == 1


USAGE = (
    (),
    ("-f", "-", "-o", "x", "--in-place"),
    ("-f", "-", "-o", "x", "--diff"),
    ("-f", "-", "--context", "x"),
    ("-f", "-", "--kubeconfig", "x"),
    ("-f", "-", "--injectConfigMapName", "x"),
    ("-f", "-", "--meshConfigMapName", "x"),
    ("-f", "-", "--explain-rules", "--diff"),
    ("-f", "-", "--platform", "moon"),
)


@pytest.mark.parametrize("flags", USAGE)
def test_flags_that_make_no_sense_end_with_2(flags: tuple[str, ...]) -> None:
    done = run("inject", *flags)
    assert (done.code, done.out) == (2, "")


def test_a_configuration_that_is_bad_is_named(tmp_path: Path) -> None:
    (file,) = write(tmp_path, app=DEPLOYMENT).values()
    config = tmp_path / "config"
    config.write_text("templates: {sidecar: '{{ if }}'}\n")
    for name, why in ((str(config), "template"), (str(tmp_path / "gone"), "cannot be read")):
        done = run("inject", "-f", str(file), "--inject-config", name)
        assert (done.code, done.out) == (2, "")
        assert name in done.err
        assert why in done.err


def test_the_built_in_configuration_can_be_given_back(tmp_path: Path) -> None:
    (file,) = write(tmp_path, app=DEPLOYMENT).values()
    printed = run("inject", "--print-config")
    config = tmp_path / "config"
    config.write_text(printed.out)
    name = str(config)
    given = run(
        "inject", "-f", str(file), "--inject-config", name, "--values", name, "--mesh-config", name
    )
    assert given == run("inject", "-f", str(file))


def test_the_rules_of_each_pod_are_explained(tmp_path: Path) -> None:
    files = write(tmp_path, app=DEPLOYMENT, other=SERVICE)
    done = run("inject", *(f"-f={path}" for path in files.values()), "--explain-rules")
    assert done.code == 0
    assert "Deployment web" in done.out
    assert "REDIRECT" in done.out


def test_hundreds_of_files_show_a_bar_on_a_terminal(tmp_path: Path) -> None:
    write(tmp_path, **{f"app{index}": DEPLOYMENT for index in range(40)})
    shown: list[tuple[int, str]] = []

    def progress(names: list[str], noun: str) -> list[str]:
        shown.append((len(names), noun))
        return names

    with mock.patch.object(terminal, "progress", progress):
        quiet = run("uninject", "-f", str(tmp_path), "--in-place")
        with mock.patch.object(io, "StringIO", _Terminal):
            loud = run("uninject", "-f", str(tmp_path), "--in-place")
    assert quiet.err == loud.err == "40 files, 0 written: 0 workloads restored\n"
    assert shown == [(40, "files")]


def test_a_bar_passes_everything_on() -> None:
    with redirect_stderr(io.StringIO()) as err:
        assert list(terminal.progress(["a", "b"], "files")) == ["a", "b"]
    assert "Traceback" not in err.getvalue()
    with mock.patch.dict(sys.modules, {"rich.progress": None}):
        assert list(terminal.progress(["a"], "files")) == ["a"]


def test_what_nests_too_deep_for_this_program_is_a_problem(tmp_path: Path) -> None:
    (file,) = write(tmp_path, app=DEPLOYMENT).values()

    def change(data: bytes, name: str) -> manifest_run.ChangedManifest:
        raise RecursionError(name, data)

    flags = manifest_run.OutputFlags(files=(str(file),))
    with pytest.raises(Exception, match=f"{file}: error: too deep"):
        manifest_run.run(flags, change, "changed")


class TestReplacing:
    """All files or none."""

    @staticmethod
    def of(path: Path, data: bytes = b"new") -> Replacement:
        return Replacement(str(path), data, path.stat())

    def test_all_are_written(self, tmp_path: Path) -> None:
        files = list(write(tmp_path, a="old", b="old").values())
        replace_files.replace_files([self.of(path) for path in files])
        assert [path.read_bytes() for path in files] == [b"new", b"new"]
        assert len(list(tmp_path.iterdir())) == 2

    def test_attributes_stay(self, tmp_path: Path) -> None:
        (file,) = write(tmp_path, a="old").values()
        file.chmod(0o604)
        os.chown(file, 12, 34)
        try:
            os.setxattr(file, "user.note", b"x")
        except OSError:
            names = []
        else:
            names = ["user.note"]
        replace_files.replace_files([self.of(file)])
        status = file.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o604)
        assert os.listxattr(file) == names

    @pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
    @pytest.mark.parametrize("call", ["fsync", "rename", "link", "open"])
    @pytest.mark.parametrize("number", [1, 2])
    def test_a_failure_leaves_everything_as_it_was(
        self, tmp_path: Path, call: str, failure: BaseException, number: int
    ) -> None:
        files = list(write(tmp_path, a="old", b="old").values())
        inodes = [path.stat().st_ino for path in files]
        replacements = [self.of(path) for path in files]
        real: Callable[..., object] = getattr(os, call)
        calls = 0

        def failing(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                raise failure
            return real(*args, **kwargs)

        expected = ReplaceError if isinstance(failure, OSError) else KeyboardInterrupt
        with mock.patch.object(os, call, failing), pytest.raises(expected):
            replace_files.replace_files(replacements)
        assert [path.read_bytes() for path in files] == [b"old", b"old"]
        assert [path.stat().st_ino for path in files] == inodes
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_file_that_changed_meanwhile_is_not_replaced(self, tmp_path: Path) -> None:
        files = list(write(tmp_path, a="old", b="old").values())
        replacements = [self.of(path) for path in files]
        files[1].write_text("another's")
        with pytest.raises(ReplaceError, match="another program changed it"):
            replace_files.replace_files(replacements)
        assert [path.read_text() for path in files] == ["old", "another's"]
        files[1].unlink()
        with pytest.raises(ReplaceError, match="another program changed it"):
            replace_files.replace_files(replacements)

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        missing = tmp_path / "gone" / "a.yaml"
        with pytest.raises(ReplaceError, match=f"cannot write {missing}"):
            replace_files.replace_files([Replacement(str(missing), b"x")])
