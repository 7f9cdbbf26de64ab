#!/bin/sh
# Fills fuzz/seeds/TARGET with the recordings, so that fuzzing starts from real streams.
set -eu
cd "$(dirname "$0")"
vectors=../proto-spec/vectors
rm -rf seeds
for target in frame_decoder server_session client_session patch_reader apply serve diff; do mkdir -p "seeds/$target"; done
for case in "$vectors"/sync/*/; do
    name=$(basename "$case")
    for target in frame_decoder server_session serve; do cp "$case/c2s.bin" "seeds/$target/$name"; done
    for target in client_session diff; do cp "$case/s2c.bin" "seeds/$target/$name"; done
    for target in patch_reader apply; do cp "$case/patch.bin" "seeds/$target/$name"; done
done
for case in "$vectors"/server/*/; do
    for target in frame_decoder server_session serve; do cp "$case/stdin.bin" "seeds/$target/server-$(basename "$case")"; done
done
for case in "$vectors"/patch/*/; do
    for target in patch_reader apply; do cp "$case/stdin.bin" "seeds/$target/patch-$(basename "$case")"; done
done
