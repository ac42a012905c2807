# Holdfast: `make up` ends with an installed, sealed node in a virtual machine.
# Everything that can be made again is kept in $(HOLDFAST_CACHE).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

VERSION := $(shell git describe --always --dirty 2>/dev/null || echo development)

export CGO_ENABLED := 0
export HOLDFAST_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/holdfast
LAB ?= default
# Packages whose tests start the programs or write whole images: the race detector would see
# nothing new there, and make them take minutes.
PROCESSES := /test/browser$$|/test/cli$$|/internal/cli$$
# What goes into the image depends on its source alone: no commit, no path, no build id.
BUILD := go build -trimpath -buildvcs=false
LDFLAGS := -s -w -buildid=

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

programs: ## build the programs in bin/
	@command -v go >/dev/null || { echo "error: Go is not installed" >&2; echo "try:   install Go 1.26 or newer, https://go.dev/dl/" >&2; exit 1; }
	mkdir -p bin
	$(BUILD) -ldflags="$(LDFLAGS)" -o bin/ ./cmd/holdfastd ./cmd/holdfast-initrd ./cmd/holdfast-proxy
	$(BUILD) -ldflags="$(LDFLAGS) -X github.com/holdfast-os/holdfast/internal/cli.Version=$(VERSION)" -o bin/ ./cmd/holdfast

build: programs ## build the image, its applications and the release tree
	bin/holdfast image build
	bin/holdfast release publish .build/release --deltas 1
	bin/holdfast release prune .build/release 3

up: build ## install a node in a virtual machine and wait until it answers (FRESH=1: anew, INTERNET=1: let it out)
	bin/holdfast lab up $(LAB) $(if $(FRESH),--fresh) $(if $(INTERNET),--internet)

down: programs ## stop the virtual machine
	bin/holdfast lab down $(LAB)

check: ## formatting, vet, staticcheck, import directions, tests of tier 0 with the race detector
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "not formatted: $$bad" >&2; echo "try:   gofmt -w $$bad" >&2; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go run ./tools/layercheck
	go run ./tools/apidoc -check
	test/install test/packages
	export HOLDFAST_TEST_COMPLETE=programs
	CGO_ENABLED=1 go test -race -short $$(go list ./... | grep -Ev '$(PROCESSES)|/test/host$$')
	go test -short $$(go list ./... | grep -E '$(PROCESSES)')

docs: ## write the reference out of types, routes and commands
	go run ./tools/apidoc

test: check fuzz-sample test-host test-vm ## everything

test-host: build ## adapters against the real programs on this kernel, and what needs the tools tree
	test/install test/host/packages
	export HOLDFAST_TEST_COMPLETE=all
	go test -count=1 ./test/host/... $$(git grep -l 'needs\.Tree' -- internal | xargs -n 1 dirname | sort -u | sed 's,^,./,')

test-vm: build ## the real image in QEMU
	test/install test/vm/peers/packages
	export HOLDFAST_TEST_COMPLETE=all
	go test -count=1 $$(go list ./test/vm/... | grep -v '/test/vm$$')
	go test -count=1 -timeout 75m -v ./test/vm # alone, so that each line is seen when it comes

test-long: build ## all tests of the image, with installations, the network on the wire and every bad release; hours
	test/install test/vm/peers/packages
	export HOLDFAST_TEST_COMPLETE=all
	go test -count=1 -timeout 8h -v ./test/vm -long

campaign-powercut: build ## an update with the power cut at POINTS (default 40) of its writes, in QEMU; hours
	go test -count=1 -timeout 10h -v ./test/vm -run 'TestUpdate_PowerCut' -points $(or $(POINTS),40)

campaign-installcut: build ## an installation with the power cut at POINTS (default 10) of its writes, in QEMU; an hour
	go test -count=1 -timeout 5h -v ./test/vm -run 'TestInstall_Interrupted' -long -points $(or $(POINTS),10)

# Inputs are counted, not seconds: at the end of a given time, Go before 1.27 may call a worker
# that was stopped a failure, https://go.dev/issue/75804.
fuzz: ## every parser of foreign bytes, with 200000 inputs each (FUZZTIME=60s: for a minute each)
	for package in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n 1 dirname | sort -u); do
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$package/*_test.go | cut -c 6-); do
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),200000x) -fuzzminimizetime 1x ./$$package
		done
	done

fuzz-sample: ## about a minute of the parser of seeds, which reads foreign bytes as root before any login
	go test -run '^$$' -fuzz '^FuzzParse$$' -fuzztime $(or $(FUZZTIME),700000x) -fuzzminimizetime 1x ./internal/seed

bench: build ## measure, and write docs/benchmarks.md
	test/install test/host/packages
	export HOLDFAST_TEST_COMPLETE=all
	go run ./test/bench -out docs/benchmarks.md

clean: ## remove what was built here, but not the cache
	-[ ! -x bin/holdfast ] || bin/holdfast lab down --all
	rm -rf bin .build .lab

.PHONY: help programs build up down check docs test test-host test-vm test-long campaign-powercut campaign-installcut fuzz fuzz-sample bench clean
