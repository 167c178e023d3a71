"""Nothing is collected here where the conformance data is not."""

from __future__ import annotations

from tests.injection.folder import conformance

collect_ignore_glob = [] if conformance() else ["test_*.py"]
