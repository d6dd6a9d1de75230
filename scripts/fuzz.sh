#!/usr/bin/env bash
# Runs every fuzz target of the tree for the given time or number of inputs each, one after
# the other. A time may end a target while go test makes an input smaller, which it then
# reports as a failure; a number does not.
# usage: scripts/fuzz.sh 10m | scripts/fuzz.sh 10000x
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fuzztime=${1:?usage: scripts/fuzz.sh DURATION|COUNTx}

count=0
while read -r dir; do
	# -list compiles the tests, so that only what go test itself knows is run.
	names=$(go -C "$dir" test -list '^Fuzz' . | grep '^Fuzz')
	for name in $names; do
		echo "fuzz $dir $name for $fuzztime"
		go -C "$dir" test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" .
		count=$((count + 1))
	done
done < <(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u)

if [ "$count" -eq 0 ]; then
	echo "no fuzz target found" >&2
	exit 1
fi
echo "fuzz: $count targets, $fuzztime each: ok"
