"""Istio's admissions, posted to the whole webhook, and its patches applied by somebody else."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import jsonpatch
import pytest

from istio_init.inject.configuration import ConfigurationFiles
from istio_init.inject.patch import is_same
from istio_init.inject.webhook import Reply, reply_to
from tests.injection.compare import comparable
from tests.injection.test_cases import cases
from tests.unit.inject.test_app import Answer, serving

if TYPE_CHECKING:
    from pathlib import Path


def posted(folder: Path, case: dict[str, Any]) -> Answer:
    """Return what the webhook with the settings of a case answers."""
    config, values, mesh = (
        str(folder / case[key]) if case.get(key) else None
        for key in ("inject_config", "values", "mesh_config")
    )
    files = ConfigurationFiles(config, values, mesh, case.get("revision") or "", case["env"])
    admit = files.read()()

    async def reply(body: bytes, path: str) -> Reply:
        return reply_to(body, path, admit, case.get("namespace_object"))

    async def post() -> Answer:
        async with serving(reply) as webhook:
            body = (folder / case["request"]).read_bytes()
            return await webhook.post(body, case["path"], content_type=case["content_type"])

    return asyncio.run(post())


@pytest.mark.parametrize(("folder", "case"), cases("admission"))
def test_admission(folder: Path, case: dict[str, Any]) -> None:
    answer = posted(folder, case)

    assert answer.status == case["status"]
    if answer.status != 200:
        return
    review = json.loads(answer.body)
    response = review["response"]
    assert review["kind"] == "AdmissionReview"
    assert review["apiVersion"] == (case["api_version"] or review["apiVersion"])
    assert (response["uid"], response["allowed"]) == (case["uid"], case["allowed"])
    if not case["allowed"]:
        for word in case["error"]["mentions"]:
            assert word in response["status"]["message"]
        return
    pod = json.loads((folder / case["request"]).read_bytes())["request"]["object"]
    operations = json.loads(base64.b64decode(response.get("patch", b"W10=")))
    patched = jsonpatch.apply_patch(pod, operations)
    if case["expected"] is None:
        assert is_same(patched, pod)
        assert "patch" not in response
    else:
        wanted = json.loads((folder / case["expected"]).read_bytes())
        assert comparable(patched) == comparable(wanted)
        assert response["patchType"] == "JSONPatch"
    # As small as Istio's, where there is one to compare with.
    if case.get("patch"):
        theirs = json.loads((folder / case["patch"]).read_bytes())
        assert len(operations) <= len(theirs)
