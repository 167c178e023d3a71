"""A plain Deployment, injected with the built-in configuration, intercepts.

The init container's arguments and the proxy's are those of the injected pod,
its user too; the program and Envoy run with them.
"""

from __future__ import annotations

import http.client
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.container.envoy import Answer, Envoy, EnvoyPod, bound_ports
from tests.inside import inside
from tests.namespace import BACKENDS
from tests.pod import (
    APP,
    CLIENT,
    CLIENT_HOST,
    ELSEWHERE,
    FAMILIES,
    LOOPBACK,
    OUTSIDE,
    PASSTHROUGH,
    POD,
    PROXY,
    Actor,
    Call,
    Setup,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.pod import Server
