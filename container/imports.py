"""Lists the files of all modules that a program can come to import, a line each.

    python3 -I -S -B imports.py init|webhook PACKAGES

Modules are looked for in the folder PACKAGES, in which istio_init is, before the
standard library. Imports inside functions count too,
those of the standard library included: what a function needs shows only when it
is called, on somebody's node.
"""

import sys

# Imported by the name of a codec, which no import statement says.
CODECS = (
    *("encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_8"),
    "encodings.unicode_escape",
)
# Imported by functions that are for those who develop, test or build, or for other systems.
NEVER_CALLED = (
    *("antigravity", "curses", "distutils", "doctest", "ftplib", "idlelib", "lib2to3", "pdb"),
    *("pydoc", "readline", "smtplib", "test", "tkinter", "unittest", "webbrowser"),
    *("_pydecimal", "_testcapi", "_testinternalcapi", "click._winconsole"),
)
# What belongs to the other program, modules below it included.
INJECTION = "istio_init.inject"
# The init container speaks none of these protocols, and starts no threads.
NEVER_CALLED_BY_INIT = (*NEVER_CALLED, "http", "multiprocessing", "urllib", "xmlrpc", INJECTION)
# Tried by the standard library, which does without; the first is OpenSSL's.
UNWANTED_BY_INIT = ("_hashlib", "bz2", "lzma")
# The webhook's libraries import these by names that they put together.
NAMED_BY_WEBHOOK = (
    "anyio._backends._asyncio",
    *("encodings.utf_16_be", "encodings.utf_16_le", "encodings.utf_8_sig"),
    "multiprocessing.forkserver",
    "multiprocessing.resource_tracker",
    "uvicorn.lifespan.off",
    "uvicorn.loops.asyncio",
)
# Libraries that have other ways of doing what they do here, for those who install more.
NEVER_CALLED_BY_WEBHOOK = (
    *NEVER_CALLED,
    *("h2", "iptc", "pygments", "rich", "trio", "uvloop", "watchfiles", "websockets", "wsproto"),
)


def is_below(name: str, names: tuple[str, ...]) -> bool:
    """Say whether a module is one of those named, or in such a package."""
    return any(name == one or name.startswith(f"{one}.") for one in names)


def statements(path: str, never_called: tuple[str, ...]) -> list[str]:
    """Return what a module imports, on being imported or later."""
    with open(path, encoding="utf-8") as source:
        tree = ast.parse(source.read())
    package = package_of(path)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: package.count(".") + 2 - node.level]
                base = ".".join([*parents, *([base] if base else [])])
            # What is imported from a package may be a module of it.
            found.append(base)
            found += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in found if name and not is_below(name, never_called)]


def package_of(path: str) -> str:
    """Return the package that a module's relative imports start from."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == path:
            is_package = hasattr(module, "__path__")
            return name if is_package else name.rpartition(".")[0]
    return ""


def loaded() -> list[str]:
    """Return the files of all modules that are loaded."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return [file for file in files if file and file != __file__]


def own_files(packages: str, never_called: tuple[str, ...]) -> list[str]:
    """Return the files of istio_init that belong to the program."""
    found = []
    for file in glob.glob(f"{packages}/istio_init/**/*.py", recursive=True):
        name = file.removeprefix(f"{packages}/").removesuffix(".py").replace("/", ".")
        if not is_below(name.removesuffix(".__init__"), never_called):
            found.append(file)
    return sorted(found)


if __name__ == "__main__":
    program, packages = sys.argv[1:]
    sys.path.insert(0, packages)
    is_init = program == "init"
    never = NEVER_CALLED_BY_INIT if is_init else NEVER_CALLED_BY_WEBHOOK
    if is_init:
        sys.modules.update(dict.fromkeys(UNWANTED_BY_INIT))  # type: ignore[arg-type]
    # After what may not be imported has been said.
    import ast
    import contextlib
    import glob
    import importlib

    if is_init:
        from istio_init.kernel import libiptc
        from istio_init.rules.ranges import FAMILIES

        for family in FAMILIES:
            libiptc.load(family)
    for codec in CODECS if is_init else (*CODECS, *NAMED_BY_WEBHOOK):
        importlib.import_module(codec)
    own = own_files(packages, never)
    read: set[str] = set()
    while waiting := sorted({*own, *loaded()} - read):
        for file in waiting:
            read.add(file)
            if file.endswith(".py"):
                for name in statements(file, never):
                    # What is for other systems and versions fails, in all sorts of ways.
                    with contextlib.suppress(Exception):
                        importlib.import_module(name)
    sys.stdout.writelines(f"{file}\n" for file in sorted(loaded()))
