# What the scripts of the machine share.

fail() { echo "FAIL: $*"; exit 1; }

# Runs a command that must end with this status; what it says is in /tmp/said.
ends() {
    local wanted=$1 code
    shift
    "$@" > /tmp/said 2>&1
    code=$?
    [ "$code" = "$wanted" ] || { cat /tmp/said; fail "exit status $code in place of $wanted: $*"; }
}

# Whether the last command of `ends` said something.
said() { grep -q -- "$1" /tmp/said || { cat /tmp/said; fail "it did not say: $1"; }; }

same() { cmp "$1" "$2" || fail "$1 and $2 differ"; }

# Groups: vg0 for sources on the first disk, vg1 for targets on the second.
groups() {
    pvcreate -q /dev/vda /dev/vdb > /dev/null && vgcreate -q vg0 /dev/vda > /dev/null && vgcreate -q vg1 /dev/vdb > /dev/null || fail "no groups"
    mkdir -p /patches /state
}

# A volume GROUP NAME MIB with random content.
volume() {
    lvcreate -qy -L "$3M" -n "$2" "$1" > /dev/null || fail "no volume $1/$2"
    dd if=/dev/urandom of="/dev/$1/$2" bs=1M count="$3" 2> /dev/null || fail "no content for $1/$2"
}

# A thin pool GROUP NAME MIB.
pool() { lvcreate -qy --type thin-pool -L "$3M" -n "$2" "$1" > /dev/null 2>&1 || fail "no pool $1/$2"; }

# Changes some blocks of a device.
change() {
    local device=$1 at
    shift
    for at; do
        dd if=/dev/urandom of="$device" bs=4k seek="$at" count=1 conv=notrunc,fsync 2> /tmp/dd || { cat /tmp/dd; fail "cannot change $device"; }
    done
}

# A configuration: the lines that it is given.
config() { printf '%s\n' "$@" > /etc/bdsync-manager.toml; }

# Every call of lvm is noted in /tmp/calls.
count_lvm() {
    printf '#!/bin/sh\necho "$*" >> /tmp/calls\nexec /sbin/lvm "$@"\n' > /bin/counted-lvm
    chmod 755 /bin/counted-lvm
}

# Which these were, but for looks at a snapshot while it is compared, which take place or not.
calls() {
    local made
    made=$(grep -v '^lvs .*-- vg0/bdsync-snapshot' /tmp/calls | cut -d' ' -f1 | tr '\n' ' ')
    [ "$made" = "$1" ] || { cat /tmp/calls; fail "calls of lvm: $made"; }
}

# Nothing may be left of a run: no snapshot of a source, no file in the patch folder.
nothing_left() {
    lvs --noheadings -o lv_name,lv_tags | grep -q 'bdsync-manager.run' && { lvs -o +lv_tags; fail "a snapshot is left"; }
    ls /patches | grep -q . && { ls -l /patches; fail "a file is left"; }
    dmsetup info -c --noheadings -o name,suspended | grep -q Suspended && fail "a device is suspended"
    true
}
