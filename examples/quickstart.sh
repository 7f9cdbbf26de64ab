#!/bin/sh
# Builds bdsync-manager, makes a real file-system image and an older copy of it, and brings
# the copy up to date as a task: compare, patch, apply, verify.
#
#   examples/quickstart.sh                  with an image made here
#   examples/quickstart.sh SOURCE TARGET    with your own image or device (TARGET is overwritten)
set -eu

cd "$(dirname "$0")/.."
cargo build --release --package bdsync-manager
manager=${CARGO_TARGET_DIR:-$PWD/target}/release/bdsync-manager
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ $# -eq 2 ]; then
    source=$(realpath "$1") target=$(realpath "$2")
elif [ $# -eq 0 ]; then
    source=$work/source.img target=$work/target.img
    mke2fs=$(PATH=$PATH:/usr/sbin:/sbin command -v mke2fs)
    # An ext4 image with this project's own files, and last night's copy without the newest of them.
    mkdir "$work/files"
    cp -r README.md proto-spec "$work/files/"
    "$mke2fs" -q -t ext4 -d "$work/files" "$source" 64M
    cp "$source" "$target"
    cp -r crates "$work/files/"
    "$mke2fs" -q -t ext4 -d "$work/files" "$source" 64M
else
    echo "usage: $0 [SOURCE TARGET]" >&2
    exit 1
fi

mkdir "$work/patches"
cat > "$work/bdsync-manager.toml" <<CONFIG
[task.quickstart]
source_path = "$source"
target_path = "$target"
target_patch_dir = "$work/patches"
verify = "full"
CONFIG
run() { "$manager" --config "$work/bdsync-manager.toml" --state-dir "$work/state" "$@"; }

echo
echo "1. What would be done"
run check
echo "2. Compare, store a patch, check it, apply it, compare again"
run --log-level info
echo "3. What is remembered of it"
run status
echo "4. Compare source and target byte by byte"
cmp "$source" "$target"
echo "   they are equal"
