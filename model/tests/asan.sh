#!/bin/sh
# The kernels' tests under the address sanitizer. Needs a nightly toolchain (`rustup toolchain install nightly`).
#
# The option keeps candle and its dependencies as they are in the other tests; leaks are not looked for, since thread pools
# live as long as the process.
set -eu
cd "$(dirname "$0")/../.."
export RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0
target=$(rustc -vV | sed -n 's/^host: //p')
cargo +nightly test -p paceline-model --lib --target "$target" --target-dir target/asan "$@"
