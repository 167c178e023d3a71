"""A Kubernetes cluster that lives as long as one command, and the tests that run in it."""
