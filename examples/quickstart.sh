#!/bin/sh
# Builds bdsync, makes a real file-system image and an older copy of it, and brings
# the copy up to date: compare, patch, apply, check.
#
#   examples/quickstart.sh                  with an image made here
#   examples/quickstart.sh SOURCE TARGET    with your own image or device (TARGET is overwritten)
set -eu

cd "$(dirname "$0")/.."
cargo build --release --package bdsync
bdsync=${CARGO_TARGET_DIR:-$PWD/target}/release/bdsync
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ $# -eq 2 ]; then
    source=$1 target=$2
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

echo
echo "1. Compare $source with $target; what differs goes into a patch"
"$bdsync" --checksum=sha256 --progress=noscroll "$bdsync --server" "$source" "$target" > "$work/patch"
echo "   the patch has $(wc -c < "$work/patch") bytes"
echo "2. Apply the patch"
"$bdsync" --patch="$target" --verify < "$work/patch"
echo "3. Compare source and target byte by byte"
cmp "$source" "$target"
echo "   they are equal"
