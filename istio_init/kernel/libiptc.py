"""python-iptables, loaded without what makes that slow.

``import iptc`` runs ``ldconfig -p`` nine times, ldconfig once more, and the C
compiler where there is one: 0.3 s. The names of the libraries are known, so
this module hands the package an ``iptc.util`` that opens them by name. Where
one does not open, the package's own is used after all.

Of the package only the tables are loaded, each family's when it is asked for,
and of the standard library's slow modules, which the package uses to take text
apart, no more than it needs to load: rules are encoded and decoded here.
"""

from __future__ import annotations

import ctypes
import os
import sys
from types import ModuleType

from istio_init.lean import TYPE_CHECKING
from istio_init.rules.ranges import IPV4

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from istio_init.rules.ranges import Family

_PACKAGE = "iptc"
_MODULES = {"ipv4": "ip4tc", "ipv6": "ip6tc"}
_LIBRARIES = {
    "ip4tc": ("libip4tc.so.2", 2),
    "ip6tc": ("libip6tc.so.2", 2),
    "xtables": ("libxtables.so.12", 12),
}
_EXTENSIONS_VARIABLE = "XTABLES_LIBDIR"


def load(family: Family = IPV4) -> Any:
    """Return the package's module for a family's tables: ``iptc.ip4tc`` or ``iptc.ip6tc``.

    Raises:
        ImportError: it, or a library that it needs, is not installed.
    """
    name = f"{_PACKAGE}.{_MODULES[family]}"
    if name in sys.modules:
        return sys.modules[name]
    # Rules are encoded here, libxtables never looks for an extension; without
    # this the package would ask ldconfig where they are.
    own = _EXTENSIONS_VARIABLE not in os.environ
    if own:
        os.environ[_EXTENSIONS_VARIABLE] = "/usr/lib/xtables"
    stood_in = _stand_in()
    try:
        if _PACKAGE not in sys.modules:
            _prepare()
        __import__(name)
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"python-iptables cannot use its libraries: {error}") from error
    finally:
        for module in stood_in:
            del sys.modules[module]
        if own:
            del os.environ[_EXTENSIONS_VARIABLE]
    return sys.modules[name]


def version() -> str:
    """Return the version of the package, which is loaded."""
    from iptc.version import __version__

    return str(__version__)


def _stand_in() -> list[str]:
    """Put something small in the place of each slow module; return the names of those.

    What is missing there is not needed to load the package's tables, nor by
    what this program calls of them; it would end in an AttributeError.
    """
    import _socket

    small: dict[str, Callable[[], ModuleType]] = {
        "re": lambda: _module("re", compile=lambda _: None),
        "shlex": lambda: _module("shlex"),
        "socket": lambda: _socket,
        "weakref": lambda: _module("weakref", WeakValueDictionary=dict),
    }
    missing = [name for name in small if name not in sys.modules]
    for name in missing:
        sys.modules[name] = small[name]()
    return missing


def _module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(contents)
    return module


def _prepare() -> None:
    """Have the package's modules found, without what its ``__init__`` imports.

    Raises:
        ImportError: it is not installed.
    """
    for finder in sys.meta_path:
        spec = finder.find_spec(_PACKAGE, None)
        if spec is not None and spec.submodule_search_locations:
            break
    else:
        raise ImportError("python-iptables is not installed")
    folders = list(spec.submodule_search_locations)
    util = _util(folders)
    if util is not None:
        sys.modules[util.__name__] = util
    sys.modules[_PACKAGE] = _module(_PACKAGE, __path__=folders, __spec__=spec)


def _util(package: list[str]) -> ModuleType | None:
    try:
        opened = {
            name: (ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL), major)
            for name, (file, major) in _LIBRARIES.items()
        }
        opened["xtwrapper"] = (ctypes.CDLL(_wrapper(package), mode=ctypes.RTLD_GLOBAL), 0)
    except OSError:
        return None
    return _module(
        f"{_PACKAGE}.util",
        find_library=lambda *names: opened[names[0]],
        find_libc=lambda: ctypes.CDLL(None),
        # The kernel loads a table's module by itself when the table is first used.
        load_kernel=lambda *_, **__: None,
    )


def _wrapper(package: list[str]) -> str:
    """Return the path of the package's C part, which lies beside it.

    Raises:
        OSError: there is none.
    """
    for folder in map(os.path.dirname, package):
        for file in os.listdir(folder):
            if file.startswith("libxtwrapper.") and file.endswith(".so"):
                return os.path.join(folder, file)
    raise FileNotFoundError("libxtwrapper")
