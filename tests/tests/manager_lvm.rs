//! Snapshots and targets that are logical volumes, on real LVM in a virtual machine.
#![allow(clippy::unwrap_used)]

use bdsync_tests::{Rng, Run, Site, Vm, manager, not_run, static_agent};

/// A machine with disks of these sizes in MiB; `None`, and said so, where there can be none.
fn vm(test: &str, disks: &[u64]) -> Option<Vm> {
    match Vm::new(disks, &[env!("CARGO_BIN_EXE_generations")]) {
        Ok(vm) => Some(vm),
        Err(why) => {
            not_run(test, &why);
            None
        }
    }
}

#[test]
fn a_classic_snapshot_is_one_moment_under_any_name_and_takes_three_calls() {
    let test = "a_classic_snapshot_is_one_moment_under_any_name_and_takes_three_calls";
    let Some(vm) = vm(test, &[96, 96]) else { return };
    vm.run(
        r#"
groups; count_lvm
lvcreate -qy -L 16M -n a-b vg0 > /dev/null; truncate -s 16M /target.img
mkdir -p /dev/disk/by-id; ln -s ../../vg0/a-b /dev/disk/by-id/dm-name-ab
generations write /dev/vg0/a-b > /tmp/writer & writer=$!
while ! grep -q WRITING /tmp/writer; do :; done
for name in /dev/vg0/a-b /dev/mapper/vg0-a--b /dev/disk/by-id/dm-name-ab vg0/a-b; do
    : > /tmp/calls
    config '[task.t]' "source_path = \"$name\"" 'target_path = "/target.img"' 'target_patch_dir = "/patches"' \
        'snapshot = "lvm"' 'lvm_snapshot_size = "100%ORIGIN"' 'lvm_program_path = "/bin/counted-lvm"' 'verify = "full"'
    ends 0 bdsync-manager
    calls "lvs lvcreate lvremove "
    ends 0 generations check /target.img
    nothing_left
done
# Without anything to verify the snapshot is gone before the patch is applied.
printf '#!/bin/sh\n[ "$1" = lvremove ] && ls /patches > /at-removal\nexec /sbin/lvm "$@"\n' > /bin/looking-lvm
chmod 755 /bin/looking-lvm
config '[task.t]' 'source_path = "/dev/vg0/a-b"' 'target_path = "/target.img"' 'target_patch_dir = "/patches"' \
    'lvm_snapshot_enabled = true' 'lvm_snapshot_size = "20M"' 'lvm_program_path = "/bin/looking-lvm"'
ends 0 bdsync-manager
grep -q partial /at-removal && ! grep -q ready /at-removal || { cat /at-removal; fail "the snapshot stayed longer"; }
ends 0 generations check /target.img
kill $writer
# The original's file, with sizes in its words.
printf '[t]\nsource_path = /dev/vg0/a-b\ntarget_path = /target.img\ntarget_patch_dir = /patches\nlvm_snapshot_enabled = yes\nlvm_snapshot_size = 8M\nlvm_snapshot_name = mine\n' > /old.conf
ends 0 bdsync-manager --config /old.conf
same /dev/vg0/a-b /target.img
nothing_left
"#,
    )
    .is_good();
}

#[test]
fn thin_volumes_have_thin_snapshots_and_full_pools_are_refused() {
    let Some(vm) = vm("thin_volumes_have_thin_snapshots_and_full_pools_are_refused", &[128, 96]) else { return };
    vm.run(
        r#"
groups; pool vg0 pool 48
lvcreate -qy -V 16M --thinpool pool -n thin vg0 > /dev/null 2>&1
generations write /dev/vg0/thin > /tmp/writer & writer=$!
while ! grep -q WRITING /tmp/writer; do :; done
config '[task.t]' 'source_path = "vg0/thin"' 'target_vg = "vg1"' 'create_target_if_missing = true' \
    'target_patch_dir = "/patches"' 'snapshot = "lvm"' 'verify = "full"'
for round in 1 2 3; do
    ends 0 bdsync-manager
    ends 0 generations check /dev/vg1/thin
    nothing_left
done
kill $writer; wait $writer
# Another volume fills the pool, in the middle of a comparison: what the snapshot has stays.
lvcreate -qy -V 64M --thinpool pool -n greedy vg0 > /dev/null 2>&1
lvchange --errorwhenfull y vg0/pool > /dev/null
dd if=/dev/urandom of=/dev/vg1/thin bs=1M count=16 conv=notrunc,fsync 2> /dev/null
cp /etc/bdsync-manager.toml /fast.toml; echo 'bandwidth_limit = "1m"' >> /etc/bdsync-manager.toml
bdsync-manager > /tmp/said 2>&1 & run=$!
while ! [ -s /patches/*.partial ]; do :; done
dd if=/dev/urandom of=/dev/vg0/greedy bs=1M conv=fsync 2> /dev/null
while ! grep -q 'The thin pool vg0/pool is [0-9.]* % full' /tmp/said; do
    kill -0 $run 2> /dev/null || { cat /tmp/said; lvs -a vg0; fail "it did not see it"; }
done
wait $run || { cat /tmp/said; fail "it failed"; }
same /dev/vg0/thin /dev/vg1/thin
nothing_left
# And now it is full before the snapshot is made.
cp /fast.toml /etc/bdsync-manager.toml
cp /dev/vg1/thin /before
ends 3 bdsync-manager
said 'the thin pool vg0/pool is full'
same /dev/vg1/thin /before
nothing_left
lvremove -qy vg0/greedy > /dev/null
ends 0 bdsync-manager
same /dev/vg0/thin /dev/vg1/thin
"#,
    )
    .is_good();
}

#[test]
fn what_is_wrong_with_a_snapshot_is_said_and_the_target_stays_as_it_was() {
    let test = "what_is_wrong_with_a_snapshot_is_said_and_the_target_stays_as_it_was";
    let Some(vm) = vm(test, &[96, 96]) else { return };
    vm.run(
        r#"
groups; volume vg0 data 24; truncate -s 24M /target.img; cp /target.img /before
task() {
    config '[task.t]' 'source_path = "/dev/vg0/data"' 'target_path = "/target.img"' 'target_patch_dir = "/patches"' \
        'snapshot = "lvm"' "$@"
}
# Names that others have are left alone.
lvcreate -qy -L 4M -n bdsync-snapshot vg0 > /dev/null
task 'lvm_snapshot_size = "8M"'
ends 3 bdsync-manager; said 'there is a volume vg0/bdsync-snapshot already'
lvremove -qy vg0/bdsync-snapshot > /dev/null
lvcreate -qy -L 4M -s -n bdsync-snapshot vg0/data > /dev/null
ends 3 bdsync-manager; said 'there is a volume vg0/bdsync-snapshot already'
# One of ours that somebody looks at.
lvchange -q --addtag bdsync-manager vg0/bdsync-snapshot > /dev/null
exec 9< /dev/vg0/bdsync-snapshot
ends 3 bdsync-manager; said 'in use by another program'
exec 9<&-
ends 0 bdsync-manager; said 'Removing the snapshot vg0/bdsync-snapshot'
nothing_left; same /dev/vg0/data /target.img; cp /before /target.img
# Sizes.
lvcreate -qy -l 90%FREE -n filler vg0 > /dev/null
task 'lvm_snapshot_size = "1G"'
ends 3 bdsync-manager; said 'bytes free, and the snapshot of data needs 25165824'
lvremove -qy vg0/filler > /dev/null
# Larger than one can get: LVM takes what it needs.
ends 0 bdsync-manager; same /dev/vg0/data /target.img; nothing_left; cp /before /target.img
task 'lvm_snapshot_size = "many"'
ends 2 bdsync-manager; said 'expected a size as LVM writes it'
task
ends 3 bdsync-manager; said 'lvm_snapshot_size is missing'
# What is no volume, and what is not active.
config '[task.t]' 'source_path = "/dev/vdb"' 'target_path = "/target.img"' 'target_patch_dir = "/patches"' \
    'snapshot = "lvm"' 'size_policy = "minsize"'
ends 3 bdsync-manager; said 'is no active logical volume'
lvchange -qan vg0/data
task 'lvm_snapshot_size = "8M"'
ends 3 bdsync-manager; said '/dev/vg0/data'
lvchange -qay vg0/data
config '[task.t]' 'source_vg = "nowhere"' 'target_path = "/{lv}.img"' 'target_patch_dir = "/patches"'
ends 3 bdsync-manager; said 'nowhere'
same /before /target.img
# Overflow before the comparison: right after it was made.
cat > /bin/overflowing-lvm << 'LVM'
#!/bin/sh
[ "$1" = lvremove ] && [ -e /overflow-at-end ] && dd if=/dev/urandom of=/dev/vg0/data bs=1M count=12 conv=fsync 2> /dev/null
/sbin/lvm "$@" || exit
[ "$1" = lvcreate ] && [ -e /overflow-at-start ] && dd if=/dev/urandom of=/dev/vg0/data bs=1M count=12 conv=fsync 2> /dev/null
true
LVM
chmod 755 /bin/overflowing-lvm
touch /overflow-at-start
task 'lvm_snapshot_size = "4M"' 'lvm_program_path = "/bin/overflowing-lvm"'
ends 3 bdsync-manager; said 'has overflowed'; said 'can never overflow'
same /before /target.img; nothing_left
rm /overflow-at-start
# After it.
touch /overflow-at-end
ends 0 bdsync-manager; nothing_left
rm /overflow-at-end
# In the middle of it: the patch is written slowly meanwhile.
cp /before /target.img
task 'lvm_snapshot_size = "4M"' 'bandwidth_limit = "4m"'
bdsync-manager > /tmp/said 2>&1 & run=$!
while ! [ -s /patches/*.partial ]; do :; done
dd if=/dev/urandom of=/dev/vg0/data bs=1M conv=fsync 2> /dev/null
wait $run; [ $? = 3 ] || fail "no failure"
said 'has overflowed'; said '% of the comparison'
same /before /target.img; nothing_left
# The same, and it grows in time.
task 'lvm_snapshot_size = "4M"' 'lvm_snapshot_autoextend = "12M"' 'bandwidth_limit = "4m"'
cp /dev/vg0/data /moment
bdsync-manager --log-level info > /tmp/said 2>&1 & run=$!
while ! [ -s /patches/*.partial ]; do :; done
for at in 0 1 2; do dd if=/dev/urandom of=/dev/vg0/data bs=1M seek=$at count=1 conv=fsync 2> /dev/null; done
while ! grep -q 'it is extended by 12M' /tmp/said; do kill -0 $run 2> /dev/null || { cat /tmp/said; fail "not extended"; }; done
dd if=/dev/urandom of=/dev/vg0/data bs=1M seek=3 count=8 conv=fsync 2> /dev/null
wait $run || { cat /tmp/said; fail "it failed"; }
same /moment /target.img; nothing_left
"#,
    )
    .is_good();
}

#[test]
fn whoever_is_killed_at_any_stage_leaves_nothing_that_the_next_run_does_not_clean_up() {
    let test = "whoever_is_killed_at_any_stage_leaves_nothing_that_the_next_run_does_not_clean_up";
    let Some(vm) = vm(test, &[96, 96]) else { return };
    vm.run(
        r#"
groups; volume vg0 data 16
cat > /bin/killing-lvm << 'LVM'
#!/bin/sh
# Ends who called it, before or after a command.
[ "$(cat /kill-at 2> /dev/null)" = "before $1" ] && rm /kill-at && kill -9 $PPID
/sbin/lvm "$@"
code=$?
[ "$(cat /kill-at 2> /dev/null)" = "after $1" ] && rm /kill-at && kill -9 $PPID
exit $code
LVM
chmod 755 /bin/killing-lvm
config '[task.t]' 'source_path = "/dev/vg0/data"' 'target_vg = "vg1"' 'create_target_if_missing = true' \
    'target_patch_dir = "/patches"' 'snapshot = "lvm"' 'lvm_snapshot_size = "8M"' 'lvm_program_path = "/bin/killing-lvm"' \
    'target_snapshots = 1' 'target_snapshot_size = "20M"'
for stage in 'before lvs' 'after lvs' 'before lvcreate' 'after lvcreate' 'before vgs' 'after vgs' 'before lvremove' 'after lvremove'; do
    echo "$stage" > /kill-at
    ends 137 bdsync-manager
    [ ! -e /kill-at ] || fail "nobody was killed $stage"
    # What is left is told of, and found under any name.
    other=
    case $stage in 'after lvcreate')
        ends 0 bdsync-manager status; said 'vg0/bdsync-snapshot is left: the next run removes it'
        other='run --set lvm_snapshot_name=other';;
    esac
    ends 0 bdsync-manager $other
    same /dev/vg0/data /dev/vg1/data; nothing_left
    change /dev/vg0/data 3 700 4000
    # Not there at the next stage that makes it.
    case $stage in 'after lvcreate'|'before vgs') lvremove -qy --select 'lv_tags=bdsync-manager.rollback' > /dev/null; lvremove -qy vg1/data > /dev/null;; esac
done
# While the target is extended over a way back.
change /dev/vg0/data 6; ends 0 bdsync-manager
for stage in 'after lvchange' 'before lvextend' 'after lvextend'; do
    lvextend -qy -L +4M vg0/data > /dev/null; change /dev/vg0/data 7
    echo "$stage" > /kill-at
    ends 137 bdsync-manager
    [ ! -e /kill-at ] || fail "nobody was killed $stage"
    ends 0 bdsync-manager
    same /dev/vg0/data /dev/vg1/data; nothing_left
done
# A snapshot whose run goes on is nobody else's leftover.
dd if=/dev/urandom of=/dev/vg0/data bs=1M count=16 conv=fsync 2> /dev/null
bdsync-manager run --set bandwidth_limit=4m > /tmp/slow 2>&1 & run=$!
while ! [ -s /patches/*.partial ]; do :; done
sed 's/target_vg.*/target_path = "\/other.img"/; /target_snap/d' /etc/bdsync-manager.toml > /other.toml
ends 3 bdsync-manager --config /other.toml --state-dir /other-state; said 'belongs to a run that goes on'
wait $run || { cat /tmp/slow; fail "the first run"; }
same /dev/vg0/data /dev/vg1/data; nothing_left
# At any other moment.
for delay in 0.05 0.1 0.15 0.2 0.3 0.4 0.5 0.6 0.8 1; do
    change /dev/vg0/data 5 800 3000
    bdsync-manager > /dev/null 2>&1 & run=$!
    usleep "$(echo "$delay" | awk '{ print $1 * 1000000 }')"
    kill -9 $run 2> /dev/null; wait $run
done
# Whatever it had started ends by itself.
while pidof lvm > /dev/null; do :; done
ends 0 bdsync-manager
same /dev/vg0/data /dev/vg1/data; nothing_left
# Ctrl-C in the midst of it.
dd if=/dev/zero of=/dev/vg1/data bs=1M count=16 conv=fsync 2> /dev/null
bdsync-manager run --set bandwidth_limit=4m > /tmp/said 2>&1 & run=$!
while ! [ -s /patches/*.partial ]; do :; done
kill -TERM $run; wait $run; [ $? = 4 ] || { cat /tmp/said; fail "not cancelled"; }
nothing_left
"#,
    )
    .is_good();
}

#[test]
fn a_volume_group_is_one_task_and_a_consistency_group_is_one_moment() {
    let test = "a_volume_group_is_one_task_and_a_consistency_group_is_one_moment";
    let Some(mut vm) = vm(test, &[128, 96]) else { return };
    vm.dir.sparse("ext4.img", 8 << 20);
    let image = vm.dir.path_text("ext4.img");
    Run::new("mkfs.ext4").args(["-q", image.as_str()]).run().exits(0);
    Run::new("gzip").arg(&image).run().exits(0);
    let image = vm.dir.path("ext4.img.gz");
    vm = vm.file(image, "/ext4.gz");
    vm.run(
        r#"
groups; count_lvm
for name in db log other-a other-b; do lvcreate -qy -L 8M -n $name vg0 > /dev/null; done
lvcreate -qy -s -L 4M -n somebodys vg0/db > /dev/null
mkdir /copies
config '[task.all]' 'source_vg = "vg0"' 'source_vg_exclude = ["other-b"]' 'target_path = "/copies/{lv}.img"' \
    'create_target_if_missing = true' 'target_patch_dir = "/patches"' 'snapshot = "lvm"' 'lvm_snapshot_size = "8M"'
ends 0 bdsync-manager list
said 'all/db: /dev/vg0/db -> /copies/db.img'
ends 0 bdsync-manager --json
said '"ok":3'
[ "$(ls /copies | tr '\n' ' ')" = "db.img log.img other-a.img " ] || { ls /copies; fail "other volumes"; }
for name in db log other-a; do same /dev/vg0/$name /copies/$name.img; done
nothing_left
# Each volume has its own result.
rm /copies/log.img; mkdir /copies/log.img
ends 3 bdsync-manager --json; said '"failed":1'; said '"ok":2'
rmdir /copies/log.img
sed -i 's/exclude/include/; s/other-b/other-*/' /etc/bdsync-manager.toml
ends 0 bdsync-manager list
[ "$(cut -d: -f1 /tmp/said | tr '\n' ' ')" = "all/other-a all/other-b " ] || { cat /tmp/said; fail "included"; }
lvremove -qy vg0/somebodys > /dev/null

# Two volumes that are written in turn, with snapshots of one moment.
generations write /dev/vg0/db /dev/vg0/log > /tmp/writer & writer=$!
while ! grep -q WRITING /tmp/writer; do :; done
group() {
    config '[defaults]' 'target_patch_dir = "/patches"' 'create_target_if_missing = true' 'snapshot = "lvm"' \
        'lvm_snapshot_size = "16M"' 'consistency_group = "database"' 'lvm_program_path = "/bin/counted-lvm"' \
        'hook_snapshot_before = "echo before >> /hooks"' 'hook_snapshot_after = "echo after >> /hooks"' "$1" \
        '[task.db]' 'source_path = "/dev/vg0/db"' 'target_path = "/copies/db.img"' \
        '[task.log]' 'source_path = "/dev/vg0/log"' 'target_path = "/copies/log.img"'
}
group 'fsfreeze = true'
for round in 1 2 3 4 5; do
    : > /hooks; : > /tmp/calls
    ends 0 bdsync-manager
    ends 0 generations check /copies/db.img /copies/log.img
    [ "$(cat /hooks | tr '\n' ' ')" = "before after " ] || { cat /hooks; fail "hooks"; }
    calls "lvs lvcreate lvcreate lvremove lvremove "
    nothing_left
done
# Without all of them there is none, and hooks that freeze are followed by those that thaw.
cp /copies/db.img /before
: > /hooks
lvcreate -qy -l 85%FREE -n filler vg0 > /dev/null
ends 3 bdsync-manager; said 'consistency group database'; said 'bytes free, and the snapshot\|insufficient free space'
lvremove -qy vg0/filler > /dev/null
same /before /copies/db.img; nothing_left
group 'fsfreeze = true'
sed -i 's/echo before/false/' /etc/bdsync-manager.toml
ends 3 bdsync-manager; said 'hook_snapshot_before failed'
grep -q after /hooks || fail "nothing thawed"
same /before /copies/db.img; nothing_left
# Killed while writes are held: they go on.
cat > /bin/killing-lvm << 'LVM'
#!/bin/sh
[ "$1" = lvcreate ] && kill -9 $PPID && exit 1
exec /sbin/lvm "$@"
LVM
chmod 755 /bin/killing-lvm
group 'fsfreeze = true'
sed -i 's/counted-lvm/killing-lvm/' /etc/bdsync-manager.toml
ends 137 bdsync-manager
while dmsetup info -c --noheadings -o suspended | grep -q Suspended; do :; done
group 'fsfreeze = true'
ends 0 bdsync-manager
ends 0 generations check /copies/db.img /copies/log.img
kill $writer; wait $writer
# Two mounted file systems, and what would freeze the manager itself.
load ext4 loop
gunzip < /ext4.gz > /dev/vg0/db; gunzip < /ext4.gz > /dev/vg0/log
mkdir -p /mnt/db /mnt/log /mnt/copy
mount -t ext4 /dev/vg0/db /mnt/db; mount -t ext4 /dev/vg0/log /mnt/log
for n in 1 2 3 4 5 6 7 8; do echo $n > /mnt/db/$n; echo $n > /mnt/log/$n; done
ends 0 bdsync-manager
nothing_left
for name in db log; do
    # Frozen, it needs no recovery: it can be mounted without writing to it.
    losetup -r /dev/loop0 /copies/$name.img; mount -t ext4 -o ro,noload /dev/loop0 /mnt/copy || fail "the copy cannot be mounted"
    [ "$(cat /mnt/copy/[1-8] | tr -d '\n')" = 12345678 ] || fail "files are missing in the copy"
    umount /mnt/copy; losetup -d /dev/loop0
done
ends 3 bdsync-manager --state-dir /mnt/db/state; said 'writes to vg0/db cannot be held'
nothing_left
"#,
    )
    .is_good();
}

#[test]
fn targets_are_made_extended_and_kept_as_they_were() {
    let Some(vm) = vm("targets_are_made_extended_and_kept_as_they_were", &[96, 160]) else { return };
    vm.run(&format!(
        "{TARGETS}{}",
        r#"
groups; pool vg1 pool 32
REMOTE= PLACE= SOURCE=/dev/vg0/data
volume vg0 data 14
all_about_targets
"#
    ))
    .is_good();
}

/// What holds for targets that are volumes, at whichever machine; REMOTE and PLACE are what a
/// configuration says of that.
const TARGETS: &str = r#"
task() {
    config $REMOTE '[task.t]' $PLACE "source_path = \"$SOURCE\"" 'target_patch_dir = "/patches"' 'target_vg = "vg1"' "$@"
}
size() { blockdev --getsize64 "$1"; }
begins_same() { cmp -n "$(size "$1")" "$1" "$2" || fail "$1 is not the beginning of $2"; }

all_about_targets() {
    task
    ends 3 bdsync-manager; said 'does not exist'
    task 'create_target_if_missing = true' 'verify = "full"'
    ends 0 bdsync-manager check; said 'would be created'
    ends 0 bdsync-manager run --dry-run
    [ ! -e /dev/vg1/data ] || fail "a dry run made it"
    ends 0 bdsync-manager
    # Extents have 4 MiB.
    [ "$(size /dev/vg1/data)" = $((16 << 20)) ] || fail "its size"
    begins_same $SOURCE /dev/vg1/data; nothing_left
    ends 0 bdsync-manager verify; said 'equal'
    # The source grows, twice: also over a way back, which is a classic snapshot.
    lvextend -qy -L 22M $SOURCE > /dev/null; change $SOURCE 1 4500
    task 'target_snapshots = 2' 'target_snapshot_size = "8M"'
    ends 0 bdsync-manager; said 'Resized the target volume /dev/vg1/data from 16777216 to 25165824'
    begins_same $SOURCE /dev/vg1/data; nothing_left
    lvextend -qy -L 26M $SOURCE > /dev/null; change $SOURCE 2 6000
    ends 0 bdsync-manager
    begins_same $SOURCE /dev/vg1/data
    # Nothing changes: no snapshot is made for that.
    ends 0 bdsync-manager
    [ "$(lvs --noheadings --select lv_tags=bdsync-manager.rollback vg1 | wc -l)" = 2 ] || { lvs; fail "ways back"; }
    cp /dev/vg1/data /before
    change $SOURCE 3 5000
    # Names have seconds in them.
    while lvs --noheadings vg1 | grep -q "before-$(date -u +%Y%m%dT%H%M%S)"; do :; done
    ends 0 bdsync-manager --log-level info; said 'kept as vg1/data-before-'
    [ "$(lvs --noheadings --select lv_tags=bdsync-manager.rollback vg1 | wc -l)" = 2 ] || { lvs; fail "too many ways back"; }
    same /before "/dev/vg1/$(lvs --noheadings -o lv_name --select lv_tags=bdsync-manager.rollback vg1 | sort | tail -1 | tr -d ' ')"
    # There is no space for a way back: nothing is changed.
    change $SOURCE 4
    cp /dev/vg1/data /before
    lvcreate -qy -l 95%FREE -n filler vg1 > /dev/null
    task 'target_snapshots = 2' 'target_snapshot_size = "1G"'
    ends 3 bdsync-manager; said 'target_snapshot_size 1G'
    same /before /dev/vg1/data; nothing_left
    lvremove -qy vg1/filler > /dev/null
    # One that would overflow in this very run is none.
    dd if=/dev/urandom of=$SOURCE bs=1M count=6 conv=fsync 2> /dev/null
    task 'target_snapshots = 2' 'target_snapshot_size = "4M"'
    ends 3 bdsync-manager; said 'would overflow in this very run'
    same /before /dev/vg1/data; nothing_left
    lvremove -qy --select lv_tags=bdsync-manager.rollback > /dev/null
    # It shrinks only if it may.
    lvreduce -qfy -L 8M $SOURCE > /dev/null
    task
    ends 3 bdsync-manager; said 'target_shrink'
    same /before /dev/vg1/data
    task 'target_shrink = true' 'target_snapshots = 1' 'target_snapshot_size = "100%ORIGIN"'
    ends 0 bdsync-manager; said 'stays larger than the source'
    begins_same $SOURCE /dev/vg1/data; nothing_left
    lvremove -qy --select lv_tags=bdsync-manager.rollback > /dev/null
    task 'target_shrink = true'
    ends 0 bdsync-manager; said 'Resized the target volume /dev/vg1/data from'; same $SOURCE /dev/vg1/data; nothing_left
    # What does not fit is said before anything is done.
    lvextend -qy -L 80M $SOURCE > /dev/null
    lvcreate -qy -l 95%FREE -n rest vg1 > /dev/null
    cp /dev/vg1/data /before
    ends 3 bdsync-manager; said 'the volume group vg1 has .* bytes free'
    same /before /dev/vg1/data
    lvremove -qy vg1/rest > /dev/null; lvreduce -qfy -L 8M $SOURCE > /dev/null
    # In a thin pool, with thin ways back.
    task 'target_path = "thin-copy"' 'create_target_if_missing = true' 'target_thin_pool = "pool"' 'target_snapshots = 1'
    ends 0 bdsync-manager; same $SOURCE /dev/vg1/thin-copy
    change $SOURCE 7; cp /dev/vg1/thin-copy /before
    while lvs --noheadings vg1 | grep -q "before-$(date -u +%Y%m%dT%H%M%S)"; do :; done
    ends 0 bdsync-manager; same $SOURCE /dev/vg1/thin-copy; nothing_left
    same /before /dev/vg1/thin-copy-before-*
    # In place.
    change $SOURCE 9
    task 'apply_patch_in_place = true'
    sed -i /target_patch_dir/d /etc/bdsync-manager.toml
    ends 0 bdsync-manager; same $SOURCE /dev/vg1/data
    # Broken off in place: the way back is still the last good state, and not what was left.
    task 'apply_patch_in_place = true' 'target_snapshots = 1' 'target_snapshot_size = "100%ORIGIN"' 'bandwidth_limit = "2m"'
    sed -i /target_patch_dir/d /etc/bdsync-manager.toml
    cp /dev/vg1/data /good
    dd if=/dev/urandom of=$SOURCE bs=1M count=8 conv=fsync 2> /dev/null
    bdsync-manager > /dev/null 2>&1 & run=$!
    while cmp -s /good /dev/vg1/data; do :; done
    kill -9 $run; wait $run
    while pidof bdsync-agent > /dev/null; do :; done
    sed -i /bandwidth_limit/d /etc/bdsync-manager.toml
    ends 0 bdsync-manager; same $SOURCE /dev/vg1/data
    same /good /dev/vg1/data-before-*
    lvs --noheadings -o lv_tags vg1 | grep -q rollback.open && fail "the run went well"
    # No file is made in place of a device.
    task 'target_path = "/dev/no-volume"' 'create_target_if_missing = true'
    sed -i /target_vg/d /etc/bdsync-manager.toml
    ends 3 bdsync-manager; said 'no file is made in place of a device'
    [ ! -e /dev/no-volume ] || fail "a file was made"
}
"#;

#[test]
fn disks_that_fail_are_told_of_and_nothing_is_lost() {
    let Some(vm) = vm("disks_that_fail_are_told_of_and_nothing_is_lost", &[64, 64]) else { return };
    // Without a journal, which would end with the first write that fails.
    vm.dir.sparse("files.img", 64 << 20);
    Run::new("mkfs.ext4").args(["-q", "-O", "^has_journal", vm.dir.path_text("files.img").as_str()]).run().exits(0);
    let files = vm.dir.path("files.img");
    let vm = vm.disk(files);
    vm.run(
        r#"
load dm-flakey
mkdir -p /patches /state
# A source with a range that cannot be read, below LVM.
sectors=$(blockdev --getsz /dev/vda)
good() { echo "0 $sectors linear /dev/vda 0" | dmsetup reload disk-a; dmsetup suspend disk-a; dmsetup resume disk-a; }
bad() { printf '0 40000 linear /dev/vda 0\n40000 64 error\n40064 %s linear /dev/vda 40064\n' $((sectors - 40064)) | dmsetup reload disk-a; dmsetup suspend disk-a; dmsetup resume disk-a; }
echo "0 $sectors linear /dev/vda 0" | dmsetup create disk-a
sed -i 's/"a|^.dev.vd|",//' /etc/lvm/lvm.conf
pvcreate -q /dev/mapper/disk-a > /dev/null; vgcreate -q vg0 /dev/mapper/disk-a > /dev/null
volume vg0 data 32
truncate -s 32M /target.img; cp /target.img /before
config '[task.t]' 'source_path = "/dev/vg0/data"' 'target_path = "/target.img"' 'target_patch_dir = "/patches"' \
    'snapshot = "lvm"' 'lvm_snapshot_size = "8M"'
bad
for io in positional mapped; do
    ends 3 bdsync-manager run --set io=$io
    said 'vg0'; grep -q overflowed /tmp/said && fail "no overflow"
    same /before /target.img; nothing_left
done
good
ends 0 bdsync-manager; same /dev/vg0/data /target.img
# A target that refuses writes, or drops them.
sectors=$(blockdev --getsz /dev/vdb)
table() { echo "0 $sectors $1" | dmsetup reload target; dmsetup suspend target; dmsetup resume target; }
echo "0 $sectors linear /dev/vdb 0" | dmsetup create target
change /dev/vg0/data 1 5000
config '[task.t]' 'source_path = "/dev/vg0/data"' 'target_path = "/dev/mapper/target"' 'target_patch_dir = "/patches"' \
    'snapshot = "lvm"' 'lvm_snapshot_size = "8M"' 'size_policy = "minsize"'
table "flakey /dev/vdb 0 0 1 1 error_writes"
ends 3 bdsync-manager
ls /patches | grep -q ready || { cat /tmp/said; fail "the patch is lost"; }
ends 0 bdsync-manager status; said 'a ready patch is pending'
table "linear /dev/vdb 0"
ends 0 bdsync-manager; said 'Finishing the patch'
nothing_left; cmp -n $((32 << 20)) /dev/vg0/data /dev/mapper/target || fail "not equal"
# What a disk refused is not found in the page cache by the next comparison.
load ext4
sectors=$(blockdev --getsz /dev/vdc)
files() { echo "0 $sectors $1" | dmsetup reload files; dmsetup suspend --nolockfs --noflush files; dmsetup resume files; }
echo "0 $sectors linear /dev/vdc 0" | dmsetup create files
mkdir /files; mount -t ext4 /dev/mapper/files /files
cp /dev/vg0/data /files/copy.img; sync
config '[task.t]' 'source_path = "/dev/vg0/data"' 'target_path = "/files/copy.img"' 'apply_patch_in_place = true'
change /dev/vg0/data 3 7000
files "flakey /dev/vdc 0 0 1 1 error_writes"
ends 3 bdsync-manager; said 'PARTLY CHANGED'; said 'cannot sync'
files "linear /dev/vdc 0"
ends 0 bdsync-manager
sync; echo 3 > /proc/sys/vm/drop_caches
same /dev/vg0/data /files/copy.img
umount /files
config '[task.t]' 'source_path = "/dev/vg0/data"' 'target_path = "/dev/mapper/target"' 'target_patch_dir = "/patches"' \
    'snapshot = "lvm"' 'lvm_snapshot_size = "8M"' 'size_policy = "minsize"'
change /dev/vg0/data 2 6000
table "flakey /dev/vdb 0 0 1 1 drop_writes"
ends 3 bdsync-manager run --set verify=full; said 'Verification failed'
table "linear /dev/vdb 0"
ends 0 bdsync-manager run --set verify=full
nothing_left; cmp -n $((32 << 20)) /dev/vg0/data /dev/mapper/target || fail "not equal"
"#,
    )
    .is_good();
}

/// Keys for a machine's sshd, and files with which it starts.
fn with_sshd(vm: Vm) -> Vm {
    for key in ["host", "user"] {
        let path = vm.dir.path_text(key);
        Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", path.as_str()]).run().exits(0);
    }
    let config = "HostKey /etc/host\nAuthorizedKeysFile /etc/authorized\nPidFile none\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nSetEnv DM_DISABLE_UDEV=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin\n";
    vm.dir.write("config", config.as_bytes());
    let path = |name: &str| vm.dir.path(name);
    let (host, user, authorized, config) = (path("host"), path("user"), path("user.pub"), path("config"));
    let known = String::from_utf8(vm.dir.read("host.pub")).unwrap();
    let known: Vec<&str> = known.split_whitespace().take(2).collect();
    vm.dir.write("known", format!("127.0.0.1 {}\n", known.join(" ")).as_bytes());
    let known = vm.dir.path("known");
    vm.file(host, "/etc/host")
        .file(user, "/root/user")
        .file(known, "/root/known")
        .file(authorized, "/etc/authorized")
        .file(config, "/etc/sshd_config")
}

#[test]
fn targets_at_another_machine_are_made_by_its_agent() {
    let Some(vm) = vm("targets_at_another_machine_are_made_by_its_agent", &[96, 160]) else { return };
    with_sshd(vm)
        .run(&format!(
            "{TARGETS}{}",
            r#"
groups; pool vg1 pool 32
mkdir -p /run/sshd; /bin/sshd -f /etc/sshd_config || fail "no sshd"
REMOTE='[remote.far] host="127.0.0.1" user="root" identity_file="/root/user" known_hosts="/root/known" ssh_agent=false retries=0'
PLACE='remote="far"'
SOURCE=/dev/vg0/data
volume vg0 data 14
all_about_targets
# A stock bdsync makes no volumes.
task
sed -i 's/retries=0/agent="stock"/' /etc/bdsync-manager.toml
ends 3 bdsync-manager; said 'needs the agent there'
# An agent that may only use some of them.
change $SOURCE 11
printf '#!/bin/sh\nexec /bin/bdsync-agent serve --restrict-to "/dev/vg1/web*" /patches\n' > /bin/confined; chmod 755 /bin/confined
sed -i "s|^|command=\"/bin/confined\" |" /etc/authorized
REMOTE="$REMOTE agent=\"installed\""
cp /dev/vg1/data /before
task
ends 3 bdsync-manager; said 'restrict-to'
same /before /dev/vg1/data
task 'target_path = "website"' 'create_target_if_missing = true'
ends 0 bdsync-manager; same $SOURCE /dev/vg1/website
task 'target_path = "other"' 'create_target_if_missing = true'
ends 3 bdsync-manager; said 'restrict-to'
[ ! -e /dev/vg1/other ] || fail "it was made"
"#
        ))
        .is_good();
}

#[test]
fn a_static_agent_is_all_that_another_machine_needs() {
    let test = "a_static_agent_is_all_that_another_machine_needs";
    let Some(mut vm) = vm(test, &[96, 96]) else { return };
    let port = vm.with_port();
    let vm = with_sshd(vm);
    let mut running = vm.start(
        r#"
groups
load virtio_net
ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0
mkdir -p /run/sshd; /bin/sshd -f /etc/sshd_config || fail "no sshd"
# Nothing that it could do without: no libraries, no other tools of ours.
rm /bin/bdsync-agent /bin/bdsync /bin/bdsync-manager
echo READY
while [ ! -e /stop ]; do usleep 50000; done
"#,
    );
    running.wait_for("READY");
    let site = Site::new();
    // The manager finds the agent beside it.
    for (from, name) in [(manager(), "bdsync-manager"), (static_agent(), "bdsync-agent")] {
        Run::new("cp").args([from.as_str(), site.dir.path_text(name).as_str()]).run().exits(0);
    }
    let ldd = Run::new("ldd").arg(&site.dir.path_text("bdsync-agent")).run();
    assert!(String::from_utf8_lossy(&ldd.stdout).contains("statically linked") || ldd.code == Some(1), "{ldd}");
    let known = String::from_utf8(vm.dir.read("known")).unwrap().replace("127.0.0.1", &format!("[127.0.0.1]:{port}"));
    site.dir.write("known", known.as_bytes());
    let remote = format!(
        "[remote.far]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"root\"\nidentity_file = \"{}\"\nknown_hosts = \"{}\"\nssh_agent = false\nagent = \"deploy\"\ntarget_patch_dir = \"/patches\"\n",
        vm.dir.path_text("user"),
        site.dir.path_text("known")
    );
    let config = format!(
        "{remote}[task.t]\nremote = \"far\"\nsource_path = \"{}\"\ntarget_vg = \"vg1\"\ncreate_target_if_missing = true\nverify = \"full\"\n[task.back]\nsource_remote = \"far\"\nsource_path = \"/dev/vg1/source.img\"\ntarget_path = \"{}\"\ntarget_patch_dir = \"{}\"\nsize_policy = \"minsize\"\n",
        site.dir.path_text("source.img"),
        site.dir.path_text("target.img"),
        site.dir.path_text("patches")
    );
    site.dir.write("manager.toml", config.as_bytes());
    let state = site.dir.path_text("state");
    let program = site.dir.path_text("bdsync-manager");
    let run = |arg: &[&str]| {
        let common = ["--config", "manager.toml", "--state-dir", &state];
        Run::new(&program).cwd(site.dir.folder()).args(common).args(arg.iter().copied()).run()
    };
    let check = run(&["check", "--task", "t"]);
    check.exits(0);
    assert!(check.stdout_text().contains("with bdsync-agent"), "{check}");
    run(&["--task", "t"]).exits(0);
    // And back.
    run(&["--task", "back"]).exits(0);
    assert!(site.is_synced("target.img"));
    let port = port.to_string();
    let stop = ["-F", "none", "-p", &port, "-i", &vm.dir.path_text("user"), "-o", "BatchMode=yes"].map(String::from);
    let known = format!("UserKnownHostsFile={}", site.dir.path_text("known"));
    let words = stop.iter().map(String::as_str).chain(["-o", &known, "root@127.0.0.1", "touch /stop"]);
    Run::new("ssh").args(words).run().exits(0);
    running.wait().is_good();
}

#[test]
fn a_power_cut_at_any_moment_is_made_good_by_the_next_run() {
    let test = "a_power_cut_at_any_moment_is_made_good_by_the_next_run";
    let Some(vm) = vm(test, &[64, 96]) else { return };
    // Patches and states outlive the machine, too.
    vm.dir.sparse("state.img", 64 << 20);
    Run::new("mkfs.ext4").args(["-q", vm.dir.path_text("state.img").as_str()]).run().exits(0);
    let state = vm.dir.path("state.img");
    let vm = vm.disk(state);
    let common = r#"
load ext4
mkdir -p /keep; mount -t ext4 /dev/vdc /keep || fail "nothing is kept"
mkdir -p /keep/patches /keep/state; ln -s /keep/patches /patches
vgchange -qay > /dev/null 2>&1
config '[task.t]' 'source_path = "/dev/vg0/data"' 'target_vg = "vg1"' 'create_target_if_missing = true'     'target_patch_dir = "/keep/patches"' 'snapshot = "lvm"' 'lvm_snapshot_size = "20M"' 'target_snapshots = 1' 'target_snapshot_size = "20M"'
"#;
    let whole = format!(
        "{common}{}",
        r#"
# Before anything is made good: the target is as it was, or as it shall be, or a ready patch is there.
if [ -e /keep/old ] && ! ls /keep/patches | grep -q ready; then
    now=$(md5sum < /dev/vg1/data)
    [ "$now" = "$(cat /keep/old)" ] || [ "$now" = "$(md5sum < /dev/vg0/data)" ] || fail "the target is half changed, and there is no patch"
fi
ends 0 bdsync-manager --state-dir /keep/state
same /dev/vg0/data /dev/vg1/data; nothing_left
ends 0 bdsync-manager --state-dir /keep/state verify
"#
    );
    vm.run(&format!("groups; rmdir /patches; volume vg0 data 16\n{whole}")).is_good();
    let cuts = std::env::var("POWER_CUTS").map_or(3, |count| count.parse().unwrap());
    let mut rng = Rng::from_environment(u64::from(std::process::id()));
    for cut in 0..cuts {
        // Everything changes, so that there is something to be cut off in.
        let script = format!(
            "{common}{}",
            r#"
md5sum < /dev/vg1/data > /keep/old
dd if=/dev/urandom of=/dev/vg0/data bs=1M count=16 conv=fsync 2> /dev/null
sync
echo STARTED
bdsync-manager --state-dir /keep/state --log-level debug
echo FINISHED
usleep 100000000
"#
        );
        let mut running = vm.start(&script);
        running.wait_for("STARTED");
        // Where in the run that is nobody knows, which is what is wanted.
        std::thread::sleep(std::time::Duration::from_millis(rng.below(4000)));
        let console = running.cut();
        let ended = vm.run(&whole);
        assert_eq!(ended.code, Some(0), "cut {cut} after:\n{console}\nthen {ended}");
    }
}
