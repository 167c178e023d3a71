"""The configuration that ``inject`` uses where none is given: three files, of release 1.30's form.

``inject-config.yaml`` holds the template, ``values.yaml`` and ``mesh-config.yaml``
what it reads. Nothing of it is Istio's.
"""

from __future__ import annotations

import os

INJECT_CONFIG = "inject-config.yaml"
VALUES = "values.yaml"
MESH_CONFIG = "mesh-config.yaml"
FILES = (INJECT_CONFIG, VALUES, MESH_CONFIG)


def text(name: str) -> str:
    """Return one of ``FILES`` as it is written."""
    # importlib.resources would cost a third of a bare interpreter.
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def config_map(name: str = "istio-sidecar-injector") -> str:
    """Return the configuration as one ConfigMap, with the keys that Istio's have.

    Its file may be given back for each of the three.
    """
    lines = ["apiVersion: v1", "kind: ConfigMap", "metadata:", f"  name: {name}"]
    lines.append("data:")
    for key, file in (("config", INJECT_CONFIG), ("values", VALUES), ("mesh", MESH_CONFIG)):
        lines.append(f"  {key}: |")
        lines += [f"    {line}".rstrip() for line in text(file).splitlines()]
    return "\n".join(lines) + "\n"
