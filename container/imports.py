"""Lists the files of all modules that istio-init can come to import, a line each.

    python3 -I -S -B imports.py FOLDER... PACKAGES

Modules are looked for in the folders, from the first to the last, before the
standard library; istio_init is in PACKAGES.
"""

import sys

# Tried by the standard library, which does without.
UNWANTED = ("bz2", "lzma")
# Imported by the name of a codec, which no import statement says.
CODECS = ("encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_8")


def statements(folder: str) -> list[str]:
    """Return what the modules of a package import, on being imported or later."""
    found = []
    for path in sorted(Path(folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # What is imported from a package may be a module of it.
                found.append(str(node.module))
                found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


if __name__ == "__main__":
    sys.path[:0] = sys.argv[1:]
    sys.modules.update(dict.fromkeys(UNWANTED))  # type: ignore[arg-type]
    # After what may not be imported has been said.
    import ast
    import contextlib
    import importlib
    from pathlib import Path

    from istio_init.apply import libiptc
    from istio_init.model import FAMILIES

    for family in FAMILIES:
        libiptc.load(family)
    for name in (*statements(f"{sys.argv[-1]}/istio_init"), *CODECS):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    sys.stdout.writelines(f"{file}\n" for file in files if file)
