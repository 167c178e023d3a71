"""Assembles an image's file system: what a program needs at run time, and nothing else.

    python3 -B assemble.py init|webhook PACKAGES IMAGE REVISION

The program is the init container's or the webhook. PACKAGES is the folder in
which istio_init and its libraries lie, IMAGE the one that is made, REVISION the
commit of the sources. SOURCE_DATE_EPOCH gives the
time of every file, in seconds. Files come from the system this runs on, with
every shared library that they need; nothing here names an architecture. Of
Python only the modules that istio-init can come to import are taken, each as
bytecode that no time stamp can make stale. The same input gives the same output,
byte for byte.
"""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# Run by istio-init, and for a person who looks at a pod's rules from within it.
PROGRAMS = ("xtables-legacy-multi", "xtables-nft-multi", "nft")
LINKS = {
    f"{tool}-{variant}{action}": f"xtables-{variant}-multi"
    for tool in ("iptables", "ip6tables")
    for variant in ("legacy", "nft")
    for action in ("", "-save", "-restore")
}
# libiptc opens them by these names, which nothing links to.
LIBRARIES = ("libip4tc.so.2", "libip6tc.so.2", "libxtables.so.12")
# Whole, because other people's rules may use anything that iptables knows.
EXTENSIONS = "xtables"
NAMES = ("services", "protocols")
# All of these are taken, by the webhook of the first; of other libraries what they lead to.
PACKAGES = ("istio_init", "iptc", "click")
# The init container has no use for it. There are files in it that are no modules.
INJECTION = "istio_init/inject"
PYTHON = f"python3.{sys.version_info.minor}"
INTERPRETER = f"/usr/bin/{PYTHON}"
HERE = Path(__file__).parent
STANDARD = Path(sysconfig.get_path("stdlib"))

USERS = (("root", 0), ("istio-proxy", 1337), ("nobody", 65534))
# Where a runtime mounts things; it cannot make them on a read-only root.
MOUNT_POINTS = ("dev", "etc", "proc", "run", "sys", "tmp", "var/run/secrets")

# What dpkg-query is to show of each package: its name with and without the architecture.
SHOWN = "${binary:Package}\t${Package}\n"


def lines_of(*command: str) -> list[str]:
    """Return what a command prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


class Image:
    """A file system that grows; whatever is taken keeps its path, links included."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Every path on this system that has been taken, as its package knows it.
        self.taken: set[Path] = set()

    def take(self, path: Path) -> None:
        """Take a file, and each symbolic link on the way to it."""
        here = Path("/")
        for number, part in enumerate(path.parts[1:], 2):
            here /= part
            if here.is_symlink():
                target = here.readlink()
                self._link(here, target)
                self.take(Path(os.path.normpath(here.parent / target), *path.parts[number:]))
                return
        if path not in self.taken:
            self.taken.add(path)
            shutil.copyfile(path, self._place(path))
            self._place(path).chmod(0o555 if os.access(path, os.X_OK) else 0o444)

    def take_with_libraries(self, *paths: Path) -> None:
        """Take programs or shared objects, and what the loader loads with them."""
        for path in paths:
            self.take(path)
        self.take_libraries(*paths)

    def take_libraries(self, *paths: Path) -> None:
        """Take what the loader loads with programs or shared objects, and not these themselves."""
        for line in lines_of("ldd", *map(str, paths)):
            if "not found" in line:
                raise FileNotFoundError(line.strip())
            for word in line.split():
                # A line that ends with a colon names the file that was asked about.
                if word.startswith("/") and not word.endswith(":"):
                    self.take(Path(word))

    def write(self, path: str, text: str) -> None:
        """Make a file."""
        place = self._place(Path(path))
        place.write_text(text, encoding="utf-8")
        place.chmod(0o444)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link, unless it is there."""
        self._link(Path(path), Path(target))

    def _place(self, path: Path) -> Path:
        place = self.root / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _link(self, path: Path, target: Path) -> None:
        place = self._place(path)
        if not place.is_symlink():
            place.symlink_to(target)


def modules(program: str, packages: Path) -> dict[str, Path]:
    """Return the modules of the image, by the path below the library's folder."""
    # By an interpreter that has not imported what this script needs.
    bare = (sys.executable, "-I", "-S", "-B")
    found: dict[str, Path] = {}
    for line in lines_of(*bare, str(HERE / "imports.py"), program, str(packages)):
        path = Path(line)
        for base in (packages, STANDARD):
            if path.is_relative_to(base):
                found[str(path.relative_to(base))] = path
                break
    is_init = program == "init"
    for package in PACKAGES if is_init else PACKAGES[:1]:
        for path in (packages / package).rglob("*.py"):
            name = str(path.relative_to(packages))
            if not path.name.startswith("_win") and not (is_init and name.startswith(INJECTION)):
                found[name] = path
    if is_init:
        for path in packages.glob("libxtwrapper.*"):
            found[path.name] = path
    else:
        for path in (packages / INJECTION).rglob("*.yaml"):
            found[str(path.relative_to(packages))] = path
    # The file by which the interpreter knows its library's folder.
    found["os.py"] = STANDARD / "os.py"
    return found


def take_python(image: Image, program: str, packages: Path) -> None:
    """Take the interpreter, the modules, and what says whose the modules are."""
    image.take_with_libraries(Path(INTERPRETER))
    library = f"/usr/lib/{PYTHON}"
    for name, path in sorted(modules(program, packages).items()):
        place = image.root / library[1:] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            # Instead of the source: it is never read, and half of the size.
            py_compile.compile(
                str(path),
                str(place.with_suffix(".pyc")),
                dfile=f"{library}/{name}",
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            if path.is_relative_to(library):
                image.taken.add(path)
        elif path.is_relative_to(library):
            image.take_with_libraries(path)
        else:
            shutil.copyfile(path, place)
            if path.suffix == ".so":
                image.take_libraries(path)
    (image.root / library[1:] / "lib-dynload").mkdir(exist_ok=True)
    for information in packages.glob("*.dist-info"):
        for path in information.rglob("*"):
            if path.is_file() and (path.name == "METADATA" or "licen" in path.name.lower()):
                place = image.root / library[1:] / path.relative_to(packages)
                image.write(f"/{place.relative_to(image.root)}", path.read_text(encoding="utf-8"))


def take_netfilter(image: Image) -> None:
    """Take iptables in both variants, its extensions, nft, and libiptc."""
    programs = [Path(str(shutil.which(name))) for name in PROGRAMS]
    image.take_with_libraries(*programs)
    for name, target in sorted(LINKS.items()):
        image.link(f"/usr/sbin/{name}", target)
    folder = Path("/usr/lib", str(sysconfig.get_config_var("MULTIARCH")))
    image.take_with_libraries(*(folder / name for name in LIBRARIES))
    image.take_with_libraries(*sorted((folder / EXTENSIONS).glob("*.so")))


def take_names(image: Image) -> None:
    """Take the names that flags may use in place of numbers."""
    for name in NAMES:
        image.take(Path("/etc") / name)
    users = [f"{name}:x:{uid}:{uid}::/:/nonexistent\n" for name, uid in USERS]
    image.write("/etc/passwd", "".join(users))
    image.write("/etc/group", "".join(f"{name}:x:{gid}:\n" for name, gid in USERS))


def take_program(image: Image, script: Path) -> None:
    """Take the command, with the path of an interpreter that hears nothing of the environment."""
    _, rest = script.read_text(encoding="utf-8").split("\n", 1)
    programs = {
        "istio-init": rest,
        # Templates between those of 1.0.2 and of today name this as their command.
        "istio-iptables": f'import sys\n\nsys.argv.insert(1, "istio-iptables")\n{rest}',
    }
    for name, text in programs.items():
        image.write(f"/usr/bin/{name}", f"#!{INTERPRETER} -IS\n{text}")
        (image.root / "usr/bin" / name).chmod(0o555)


def name_the_packages(image: Image) -> None:
    """Say what was taken from which Debian package, for people and for scanners."""
    for line in sorted(lines_of("dpkg-query", "--show", "--showformat", SHOWN)):
        full, name = line.split("\t")
        files = lines_of("dpkg-query", "--listfiles", full)
        if {_place(file) for file in files}.isdisjoint(image.taken):
            continue
        status = lines_of("dpkg-query", "--status", full)
        image.write(f"/var/lib/dpkg/status.d/{name}", "".join(f"{one}\n" for one in status))
        image.take(Path("/usr/share/doc", name, "copyright"))


def _place(path: str) -> Path:
    """Return where a package's file is since /lib and /bin are links."""
    folder, name = os.path.split(path)
    return Path(os.path.realpath(folder), name)


def settle(root: Path, moment: int) -> None:
    """Give everything one owner, one time, and to nobody the right to write."""
    for folder, _, files in os.walk(root, topdown=False):
        for file in files:
            path = Path(folder, file)
            if not path.is_symlink():
                # Whatever the checkout's own modes are.
                path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)
            os.utime(path, (moment, moment), follow_symlinks=False)
        Path(folder).chmod(0o555)
        os.utime(folder, (moment, moment))


def main() -> None:
    """Assemble the image's file system."""
    program, packages, root, revision = (
        sys.argv[1],
        Path(sys.argv[2]),
        Path(sys.argv[3]),
        sys.argv[4],
    )
    moment = int(os.environ["SOURCE_DATE_EPOCH"])
    root.mkdir()
    image = Image(root)
    for name in MOUNT_POINTS:
        (root / name).mkdir(parents=True, exist_ok=True)
    take_python(image, program, packages)
    if program == "init":
        take_netfilter(image)
    take_names(image)
    take_program(image, packages / "istio_init/istio-init")
    image.write("/usr/share/doc/istio-init/LICENSE", (HERE / "LICENSE").read_text(encoding="utf-8"))
    name_the_packages(image)
    image.write("/usr/share/doc/istio-init/revision", f"{revision}, {moment} s\n")
    settle(root, moment)


if __name__ == "__main__":
    main()
