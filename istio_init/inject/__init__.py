"""Sidecar injection: manifests and admission requests in, injected pods out."""
