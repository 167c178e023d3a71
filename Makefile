# Everything a person or CI runs. `make demo` and `make test` need only Debian 12 or 13
# with its Python, make and root: `setup` installs the rest.

# The system's own, whichever it is, before any that somebody put on the PATH.
PYTHON ?= $(firstword $(wildcard $(addprefix /usr/bin/python3.,11 12 13 14 15)) python3)
VENV := .venv
READY := $(VENV)/.ready
CONTAINER_READY := $(VENV)/.ready-for-container
CLUSTER_READY := $(VENV)/.ready-for-cluster
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517
# iptables and nftables are what the program stands beside and is compared with;
# gcc and the headers build python-iptables' C part; strace counts what a start costs; by
# netbase's list of protocols `ip rule` knows tcp.
PACKAGES := iptables nftables iproute2 netbase util-linux gcc libc6-dev python3-dev python3-venv \
    strace shellcheck
# What the container's tests build the image with, and run it by.
CONTAINER_PACKAGES := buildah golang-github-containers-common mmdebstrap runc
# The releases of iptables and nftables that the kernel's tests are run with, of these of Debian.
MATRIX := bullseye bookworm trixie
MATRIX_TESTS := $(addprefix tests/kernel/test_,conformance.py encoder.py formats.py \
    iptables_nft.py nft_encoder.py nftables.py)
# What a node is made of, and its pods.
CLUSTER_PACKAGES := busybox-static containerd containernetworking-plugins openssl

# Rooms and modules without input or output, and so without an excuse for an untried line.
PURE := istio_init/rules/*,istio_init/formats/*,istio_init/config/*,istio_init/planner/*,$\
    istio_init/diagnose/*,istio_init/lean.py,istio_init/errors.py,istio_init/log.py

.PHONY: setup bench demo demo-cluster test matrix container cluster cluster-setup image check fmt \
    golden clean packages matrix-packages container-packages cluster-packages

setup: $(READY)

$(READY): pyproject.toml Makefile | packages
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@

$(CONTAINER_READY): $(READY)
	$(PIP_INSTALL) --editable '.[dev,container]'
	touch $@

# Go builds Kubernetes, once; that of the machine will do.
$(CLUSTER_READY): $(CONTAINER_READY)
	PATH=$$PATH:/usr/local/go/bin go version 2>/dev/null | grep -q ' go1\.26' \
	    || $(PIP_INSTALL) --editable '.[dev,container,cluster]'
	touch $@

# Asks apt only for what is missing, so that a second run needs no network.
matrix-packages: PACKAGES += mmdebstrap
container-packages: PACKAGES += $(CONTAINER_PACKAGES)
cluster-packages: PACKAGES += $(CONTAINER_PACKAGES) $(CLUSTER_PACKAGES)
packages matrix-packages container-packages cluster-packages:
	@missing=""; for package in $(PACKAGES); do \
	    dpkg-query --show --showformat '$${db:Status-Status}\n' $$package 2>/dev/null \
	        | grep -qx installed || missing="$$missing $$package"; \
	done; \
	test -z "$$missing" || { \
	    echo "installing$$missing"; \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	        apt-get -qq install --yes --no-install-recommends $$missing >/dev/null; \
	}

# Takes minutes and both cores: nothing else should run meanwhile.
bench: setup
	$(VENV)/bin/python scripts/bench --json scripts/bench.json --picture scripts/bench.svg
	$(VENV)/bin/python scripts/bench-webhook --json scripts/bench-webhook.json
	$(VENV)/bin/python -m tests.documents

demo: setup
	$(VENV)/bin/python scripts/demo

# The same in a real cluster, with the commands that a person would type.
demo-cluster: cluster-setup
	scripts/cluster --node -- $(VENV)/bin/python -m tests.cluster.demo

# Of what is pure 99 lines of 100 are run by some test, and of everything 95.
test: setup check
	rm -rf build/coverage
	mkdir -p build/coverage
	$(VENV)/bin/coverage run -m pytest -n auto --ignore=tests/container --ignore=tests/cluster tests
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report --fail-under=99 --include='$(PURE)'
	$(VENV)/bin/coverage report --fail-under=95

# What the program writes, as iptables and nft of other releases of Debian show it, and what these
# write, as the program reads it. Their packages are fetched once, into ~/.cache/istio-init.
matrix: setup matrix-packages
	set -e; for release in $(MATRIX); do \
	    ISTIO_INIT_TOOLS=$$(scripts/debian-tools $$release); export ISTIO_INIT_TOOLS; \
	    echo "with the programs of Debian's $$release:"; \
	    $(VENV)/bin/python -m pytest -n auto $(MATRIX_TESTS); \
	done

# The tests of the image, which take a minute or two more where there is no base image yet.
container: setup container-packages $(CONTAINER_READY) image
	scripts/image --target webhook
	$(VENV)/bin/python -m pytest -n auto tests/container

# The tests in a real cluster. The first time on a machine it builds Kubernetes, which takes 6 to
# 15 minutes; what it has built lies in ~/.cache/istio-init, and is found there by its hash.
cluster: cluster-setup
	scripts/cluster --node --logs build/cluster -- $(VENV)/bin/python -m pytest tests/cluster

# What scripts/cluster needs, with the images of this commit.
cluster-setup: setup cluster-packages $(CLUSTER_READY) image
	scripts/image --target webhook
	scripts/kubernetes

# Needs one of buildah, podman and docker, and none of the rest.
image:
	scripts/image

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy container/assemble.py container/imports.py
	$(VENV)/bin/lint-imports
	shellcheck scripts/debian-tools scripts/image scripts/kubernetes

fmt: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Rewrites what the tests compare the output with, and shows what changed.
golden: setup
	$(VENV)/bin/python scripts/golden

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
