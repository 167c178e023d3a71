"""Lists the files of all modules that istio-init can come to import, a line each.

    python3 -I -S -B imports.py PACKAGES

Modules are looked for in the folder PACKAGES, in which istio_init is, before the
standard library. Imports inside functions count too,
those of the standard library included: what a function needs shows only when it
is called, on somebody's node.
"""

import sys

# Tried by the standard library, which does without; the first is OpenSSL's.
UNWANTED = ("_hashlib", "bz2", "lzma")
# Imported by the name of a codec, which no import statement says.
CODECS = ("encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_8")
# Imported by functions that are for those who develop, test or build, for other
# systems, or for protocols that istio-init does not speak.
NEVER_CALLED = frozenset(
    {
        *("antigravity", "curses", "distutils", "doctest", "ftplib", "http", "idlelib", "lib2to3"),
        *("multiprocessing", "pdb", "pydoc", "readline", "smtplib", "test", "tkinter", "unittest"),
        *("urllib", "webbrowser", "xmlrpc", "_pydecimal", "_testcapi", "_testinternalcapi"),
    }
)


def statements(path: str) -> list[str]:
    """Return what a module imports, on being imported or later."""
    with open(path, encoding="utf-8") as source:
        tree = ast.parse(source.read())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # What is imported from a package may be a module of it.
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.partition(".")[0] not in NEVER_CALLED]


def loaded() -> list[str]:
    """Return the files of all modules that are loaded."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return [file for file in files if file and file != __file__]


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    sys.modules.update(dict.fromkeys(UNWANTED))  # type: ignore[arg-type]
    # After what may not be imported has been said.
    import ast
    import contextlib
    import glob
    import importlib

    from istio_init.kernel import libiptc
    from istio_init.rules.ranges import FAMILIES

    for family in FAMILIES:
        libiptc.load(family)
    for codec in CODECS:
        importlib.import_module(codec)
    own = sorted(glob.glob(f"{sys.argv[1]}/istio_init/**/*.py", recursive=True))
    read: set[str] = set()
    while waiting := sorted({*own, *loaded()} - read):
        for file in waiting:
            read.add(file)
            if file.endswith(".py"):
                for name in statements(file):
                    with contextlib.suppress(ImportError):
                        importlib.import_module(name)
    sys.stdout.writelines(f"{file}\n" for file in sorted(loaded()))
