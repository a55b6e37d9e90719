# The commands of this project. `make help` lists them.

RELEASE := $(shell sed -n 's/^\#\# \([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
VERSION ?= $(or $(patsubst v%,%,$(shell git describe --tags --dirty 2>/dev/null)),$(RELEASE)-dev)
BINARY ?= bin/imds-bridge
MODULES := . deploy/schema e2e
TOOL = go tool -modfile=$(CURDIR)/tools/go.mod

# A package and the command or file that shows that it is there: see .ci/need.
NEEDED_BY_DEMO := curl
NEEDED_BY_TEST := $(NEEDED_BY_DEMO) gcc libc6-dev:/usr/include/stdlib.h jq iproute2:ip iptables \
	cron docker.io:dockerd containerd:ctr runc podman crun rpm db-util:db_load systemd:systemd-analyze default-jdk-headless:javac nodejs:node npm \
	python3-boto:/usr/lib/python3/dist-packages/boto python3-boto3:/usr/lib/python3/dist-packages/boto3 \
	awscli:/usr/bin/aws s3cmd:/usr/bin/s3cmd s3fs:/usr/bin/s3fs byobu wget cloud-guest-utils:ec2metadata \
	amazon-ecr-credential-helper:docker-credential-ecr-login ruby:/usr/bin/ruby ruby-aws-sdk-core:/var/lib/dpkg/info/ruby-aws-sdk-core.list
NEEDED_BY_GENERATE := clang-19 llvm-19:llvm-strip-19
NEEDED_BY_LINT := clang-format-19
NEEDED_BY_BENCH := nginx-light:nginx haproxy
NEEDED_BY_KERNELS := qemu-system-x86:qemu-system-x86_64 kmod:depmod iproute2:ip iptables:iptables-legacy \
	debian-archive-keyring:/usr/share/keyrings/debian-archive-keyring.gpg
NEEDED_BY_KUBERNETES := gcc libc6-dev:/usr/include/stdlib.h iproute2:ip iptables containerd:ctr runc \
	etcd-server:etcd containernetworking-plugins:/usr/lib/cni/ptp

.PHONY: help build demo test test-chaos test-kernels test-kubernetes generate lint bench
.DEFAULT_GOAL := help

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the static binary bin/imds-bridge, for GOARCH if that is set
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BINARY) ./cmd/imds-bridge

build-%: ## Build for another architecture: make build-arm64
	@GOARCH=$* $(MAKE) --no-print-directory build BINARY=bin/imds-bridge-$*

demo: build ## Show the main job in a network namespace of its own
	@.ci/need $(NEEDED_BY_DEMO)
	@.ci/root $(BINARY) demo

test: build ## Run all tests; the last line counts them
	@.ci/need $(NEEDED_BY_TEST) $(NEEDED_BY_KERNELS)
	@.ci/test

test-chaos: ## Break the bridge in every way, at length; CHAOS='-page docs/reliability.md' keeps the table
	@.ci/need $(NEEDED_BY_TEST)
	@mkdir -p bin && cd e2e && go build -o $(CURDIR)/bin/chaos ./chaos
	@cd e2e && go test -exec $(CURDIR)/.ci/root -json -count=1 -timeout 30m -run '^Test(NeverInTheWay|FailClosed)' . -rounds 5 | (cd $(CURDIR) && bin/chaos $(CHAOS))

test-kernels: ## Test under other kernels, in virtual machines; KERNELS='-all -page docs/kernels.md' tests all and keeps the table
	@.ci/need $(NEEDED_BY_KERNELS)
	@mkdir -p bin && cd e2e && CGO_ENABLED=0 go build -o $(CURDIR)/bin/test-kernels ./kernels
	@bin/test-kernels $(KERNELS)

test-kubernetes: ## Test with a real cluster, after some minutes of building it once; KUBERNETES=-record keeps its answers
	@.ci/need $(NEEDED_BY_KUBERNETES)
	@servers=$$(e2e/kubernetes/build) && options="-servers $$servers $(KUBERNETES)" && \
		go test -race -count=1 -tags kubernetes -run '^TestRealServer$$' ./caller/container/kubernetes $$options && cd e2e && \
		go test -race -count=1 -tags kubernetes -exec $(CURDIR)/.ci/root -run '^TestAttributionNamesPodsOfACluster$$' . $$options

generate: ## Make the BPF objects, their Go types and the reference pages again
	@.ci/need $(NEEDED_BY_GENERATE)
	go generate ./...

lint: ## Check form, common mistakes and who imports whom
	@.ci/need $(NEEDED_BY_LINT)
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted"; exit 1; }
	clang-format-19 --dry-run -Werror bpf/*.c bpf/*.h
	@set -e; for module in $(MODULES); do echo "lint $$module"; cd $(CURDIR)/$$module; \
		go vet ./... && go vet -tags root,kubernetes ./...; $(TOOL) staticcheck -tags root,kubernetes ./...; $(TOOL) golangci-lint run; done

bench: build ## Compare the bridge with nginx and haproxy; BENCH='-page docs/performance.md' keeps the table
	@.ci/need $(NEEDED_BY_BENCH)
	cd e2e && go build -o $(CURDIR)/bin/bench ./bench
	@.ci/root bin/bench -bridge $(BINARY) -json bin/bench.json $(BENCH)
