# podwall. `make` alone lists the targets.

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/podwall/podwall/internal/version.Version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

# The binaries, each with the folder of its package main. One whose folder has no
# Go files yet is not built.
podwall         := ./plugin
podwalld        := ./daemon
policyctl       := ./daemon/policyctl
podwall-install := ./install
NAMES    := podwall podwalld policyctl podwall-install
BINARIES := $(foreach b,$(NAMES),$(if $(wildcard $($(b))/*.go),bin/$(b)))

# What the tests and the product's users call, and the Debian package it is in.
TOOLS := nft:nftables ip:iproute2 iptables-nft:iptables conntrack:conntrack ping:iputils-ping /lib/systemd/systemd:systemd

.DEFAULT_GOAL := help
.PHONY: help setup build image packages demo test e2e e2e-full reproduce sbom vuln bench fuzz lint fmt clean $(BINARIES)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building and testing need (Debian, as root)
	@.ci/setup $(TOOLS)

build: $(BINARIES) ## build the binaries into bin/

$(BINARIES): # go build knows best whether they are up to date
	$(BUILD) -o $@ $($(notdir $@))

# What nodes install from: the same binaries for each architecture, their licences,
# and the time of the last commit as everything's.
ARCHITECTURES := amd64 arm64
DATE ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
OUT  ?= bin
PACK  =  $(GO) run ./install/pack
PACKED = -version '$(VERSION)' -date $(DATE) -notices .cache/NOTICES \
	$(foreach a,$(ARCHITECTURES),$(a)=.cache/linux-$(a))
# The name that the manifests have for it.
IMAGE ?= $(shell awk '/newName:/ {n = $$2} /newTag:/ {print n ":" $$2}' install/manifests/base/kustomization.yaml)

$(ARCHITECTURES:%=.cache/linux-%): .cache/linux-%: FORCE
	$(foreach b,$(NAMES),CGO_ENABLED=0 GOOS=linux GOARCH=$* $(BUILD) -o $@/$(b) $($(b)) &&) true

.cache/NOTICES: $(ARCHITECTURES:%=.cache/linux-%)
	$(GO) run ./.ci/sbom -notices $(foreach d,$^,$(NAMES:%=$(d)/%)) >$@.tmp
	mv $@.tmp $@

FORCE:

image: .cache/NOTICES ## write an OCI image for amd64 and arm64, bin/podwall-image.tar
	@mkdir -p $(OUT)
	@$(PACK) image -o $(OUT)/podwall-image.tar -name '$(IMAGE)' $(PACKED)

packages: .cache/NOTICES ## write Debian packages for amd64 and arm64 into bin/
	@mkdir -p $(OUT)
	@$(PACK) debian -o $(OUT) $(PACKED)

demo: setup build ## show the main job on real pods, in seconds
	@$(GO) build -o .cache/demo ./integration/demo
	@.cache/demo

test: setup build .cache/kustomize ## run every test, as root; the last line says "N passed, N failed"
	@.ci/test

CLUSTER_TOOLS := containerd:containerd runc:runc busybox:busybox-static

e2e: build image ## judge podwall on real Kubernetes clusters, the short form (30 min, the first time 50)
	@.ci/setup $(TOOLS) $(CLUSTER_TOOLS)
	@.ci/e2e -short

e2e-full: build image ## the same with every suite in every cluster
	@.ci/setup $(TOOLS) $(CLUSTER_TOOLS)
	@.ci/e2e

reproduce: build ## build again, elsewhere and from nothing, and compare
	@VERSION='$(VERSION)' .ci/reproduce

sbom: build ## write the bill of materials of the binaries, bin/sbom.cdx.json
	$(GO) run ./.ci/sbom -version '$(VERSION)' $(BINARIES) >bin/sbom.tmp
	mv bin/sbom.tmp bin/sbom.cdx.json

vuln: ## look for known vulnerabilities, where their database can be reached
	@.ci/vuln

bench: setup build .cache/noop ## measure podwall beside the alternatives, as root, into docs/performance.md
	@$(GO) build -o .cache/bench ./integration/bench
	@.cache/bench -doc docs/performance.md

.PHONY: .cache/noop
.cache/noop:
	@$(BUILD) -o $@ ./integration/bench/noop

fuzz: ## fuzz every fuzz target for FUZZTIME (10s) each
	@.ci/fuzz

lint: .cache/golangci-lint ## run golangci-lint (built on first use, which takes minutes)
	.cache/golangci-lint run ./...

.cache/golangci-lint: .ci/tools/go.mod
	cd .ci/tools && $(GO) build -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.cache/kustomize: .ci/tools/go.mod
	cd .ci/tools && $(GO) build -o ../../$@ sigs.k8s.io/kustomize/kustomize/v5

fmt: ## format the code
	gofmt -w .

clean: ## remove what was built
	rm -rf bin .cache
