# pgproxy's house. `make` alone builds; every other target says what it needs and
# installs what is missing by its Debian package name (scripts/install-deps.sh).

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
FUZZTIME ?= 10m
TOOLS    := $(CURDIR)/bin/tools

GOBUILD = CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
# The race detector needs cgo; what is released is built without.
GOTEST  = CGO_ENABLED=1 go test -race -p 2 -timeout 20m

.PHONY: all build demo test lint bench bench-clients5000 bench-failover bench-clients fuzz clean

all: build

build:
	$(GOBUILD) -o bin/ ./cmd/...

# Three hosts on this machine; it needs root, for network namespaces.
# make demo DEMO_EXEC='psql -c "show pool_nodes"' runs one command and ends.
export DEMO_EXEC
demo: build
	@scripts/install-deps.sh demo
	@if [ -n "$$DEMO_EXEC" ]; then exec bin/pgproxy demo --exec "$$DEMO_EXEC"; else exec bin/pgproxy demo; fi

# Everything: a missing server or driver is installed or fails the run, never skipped.
# What happens to whole hosts is tried alone: members that get no processor look dead. So
# is which server gets how many reads, which depends on how soon standbys replay.
# The simulation is one goroutine: nothing could race.
# What moves the bytes of sessions is tried by both drivers: all on the default, listen.driver
# auto, and what is about sessions again on goroutines, without the race detector. Nor could
# allocations be counted with it.
test:
	scripts/install-deps.sh test
	$(MAKE) build lint
	$(GOTEST) $$(go list ./... | grep -v -e /test/failover$$ -e /test/clients$$ -e /test/routing$$ -e /test/simulation$$)
	go test -count=1 -run AllocateNothing ./proxy/session
	PGPROXY_TEST_DRIVER=goroutine go test -p 2 -timeout 20m -count=1 ./proxy ./test/transparency ./test/robustness
	go test -timeout 20m ./test/simulation
	$(GOTEST) -p 1 ./test/routing ./test/failover ./test/clients
	cd lb/pgquerytest && CGO_ENABLED=1 go test -p 2 -timeout 20m ./...
	scripts/fuzz.sh 10000x

# Pinned in tools/go.mod. exhaustive: a default arm counts as exhaustive, bit flags are not enums.
lint: $(TOOLS)/.installed
	@unformatted=$$($(TOOLS)/gofumpt -l .); if [ -n "$$unformatted" ]; then echo "not formatted by gofumpt:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(TOOLS)/staticcheck ./...
	$(TOOLS)/go-errorlint -errorf ./...
	$(TOOLS)/exhaustive -B -d ./...
	cd lb/pgquerytest && CGO_ENABLED=1 go vet ./...

$(TOOLS)/.installed: tools/go.mod tools/go.sum
	GOBIN=$(TOOLS) go -C tools install tool
	@touch $@

# pgbench side by side, three quarters of an hour. BENCH=-quick: three minutes; BENCH=-targets: what has a
# target, ten minutes; BENCH='-markdown docs/performance.md' puts the tables there.
bench: build
	@scripts/install-deps.sh bench
	go run ./bench -pgproxy bin/pgproxy $(BENCH)

# 5,000 clients on 50 server connections, beside PgBouncer: what a transaction costs then,
# and how fair the waiting is. CROWD='-crowd 500 -servers 5' for others.
CROWD ?= -crowd 5000 -servers 50
bench-clients5000: build
	@scripts/install-deps.sh bench
	go run ./bench -pgproxy bin/pgproxy -run 'clients on' -o crowd.json $(CROWD)

# Failovers, ten of each kind, in network namespaces: how long no write is acknowledged.
# FAILOVER='-n 50 -scenario pause-leader -servers 2 -witness' for others. It needs root.
FAILOVER ?= -n 10
bench-failover: build
	@scripts/install-deps.sh failover
	go run ./test/failover/measure -bin bin $(FAILOVER)

# What clients of four drivers see of failovers and switchovers, side by side.
# CLIENTS='-clients 200 -failovers 20 -switchovers 20 -pool session -target pgproxy,pgpool'
# for others; about half a minute for each failover. It needs root.
CLIENTS ?= -clients 40 -failovers 3 -switchovers 3
bench-clients: build
	@scripts/install-deps.sh clients
	go run ./test/clients/measure -bin bin $(CLIENTS)

# Every fuzz target, one after the other.
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

clean:
	rm -rf bin
