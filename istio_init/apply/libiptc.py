"""python-iptables, loaded without the processes it starts to find its libraries.

``import iptc`` runs ``ldconfig -p`` nine times, ldconfig once more, and the C
compiler where there is one: 0.3 s. The names of the libraries are known, so
this module hands the package an ``iptc.util`` that opens them by name. Where
one does not open, the package's own is used after all.
"""

from __future__ import annotations

import ctypes
import os
import sys
from types import ModuleType

from istio_init.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_LIBRARIES = {
    "ip4tc": ("libip4tc.so.2", 2),
    "ip6tc": ("libip6tc.so.2", 2),
    "xtables": ("libxtables.so.12", 12),
}
_EXTENSIONS_VARIABLE = "XTABLES_LIBDIR"


def load() -> Any:
    """Return the ``iptc`` package.

    Raises:
        ImportError: it, or a library that it needs, is not installed.
    """
    if "iptc" in sys.modules:
        return sys.modules["iptc"]
    # Rules are encoded here, libxtables never looks for an extension; without
    # this the package would ask ldconfig where they are.
    own = _EXTENSIONS_VARIABLE not in os.environ
    if own:
        os.environ[_EXTENSIONS_VARIABLE] = "/usr/lib/xtables"
    try:
        util = _util()
        if util is not None:
            sys.modules["iptc.util"] = util
        import iptc
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"python-iptables cannot use its libraries: {error}") from error
    finally:
        if own:
            del os.environ[_EXTENSIONS_VARIABLE]
    return iptc


def _util() -> ModuleType | None:
    try:
        opened = {
            name: (ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL), major)
            for name, (file, major) in _LIBRARIES.items()
        }
        opened["xtwrapper"] = (ctypes.CDLL(_wrapper(), mode=ctypes.RTLD_GLOBAL), 0)
    except OSError:
        return None
    util = ModuleType("iptc.util")
    functions = {
        "find_library": lambda *names: opened[names[0]],
        "find_libc": lambda: ctypes.CDLL(None),
        # The kernel loads a table's module by itself when the table is first used.
        "load_kernel": lambda *_, **__: None,
    }
    util.__dict__.update(functions)
    return util


def _wrapper() -> str:
    """Return the path of the package's C part, which lies beside it.

    Raises:
        OSError: there is none.
    """
    for folder in sys.path:
        try:
            files = os.listdir(folder or ".")
        except OSError:
            continue
        for file in files:
            if file.startswith("libxtwrapper.") and file.endswith(".so"):
                return os.path.join(folder, file)
    raise FileNotFoundError("libxtwrapper")
