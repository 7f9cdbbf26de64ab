//! What a far end's shell is asked to do.

/// What the first script prints where its answer begins.
pub(super) const MARK: &str = "bdsync-manager survey";

/// How often the far end says that it is still there, in seconds.
const HEARTBEAT: u32 = 5;

/// How often it says how far it is, in seconds.
const STEP: u32 = 1;

/// What stands before a position in the patch, in a line of its own.
pub(super) const AT: &str = "at=";

/// Signs of life, until the script ends.
pub(super) fn heartbeat() -> String {
    every(HEARTBEAT, "echo alive")
}

/// Signs of life, with how far the file is read that the script has as its number 9, where the
/// system tells. What reads it has to do so through that number.
pub(super) fn progress() -> String {
    every(STEP, &format!("echo alive; {{ read -r x p < /proc/$$/fdinfo/9; }} 2> /dev/null && echo \"{AT}$p\""))
}

fn every(seconds: u32, what: &str) -> String {
    format!(
        "while kill -0 $$ 2> /dev/null; do {what}; sleep {seconds} > /dev/null 2>&1; done &\nalive=$!\ntrap 'kill $alive 2> /dev/null' EXIT\n"
    )
}

/// `make_durable FILE...`. An error of a sync that can do single files counts; only where it
/// cannot everything is synced.
pub(super) const SYNC: &str = r#"
if sync -- / 2> /dev/null; then
  make_durable() { sync -- "$@"; }
else
  make_durable() { sync; }
fi
"#;

/// `usage` says what else uses the target `t`, a line for each.
pub(super) const GUARD: &str = r#"
number() { stat -L -c '%t %T' -- "$1" 2>/dev/null; }
usage() {
  if [ -f "$t" ]; then
    for l in /sys/block/loop*/loop/backing_file; do
      [ -r "$l" ] || continue
      read -r f < "$l"
      [ "$f" -ef "$t" ] && l=${l#/sys/block/} && echo "busy=is attached to /dev/${l%%/*}"
    done
  fi
  if [ -b "$t" ]; then
    n=$(number "$t")
    s=/sys/dev/block/$((0x${n% *})):$((0x${n#* }))
    for x in "$s/dev" "$s"/*/dev; do
      [ -r "$x" ] || continue
      read -r v < "$x"
      for h in "${x%/dev}"/holders/*; do [ -e "$h" ] && echo "busy=is in use by the device ${h##*/}"; done
      while read -r i p w r where rest; do
        [ "$w" = "$v" ] && echo "busy=is mounted on $where" && break
      done < /proc/self/mountinfo
    done
    while read -r line; do
      r=${line#* - }; r=${r#* }; r=${r%% *}
      [ -b "$r" ] && [ "$(number "$r")" = "$n" ] && echo "busy=is mounted" && break
    done < /proc/self/mountinfo
    while read -r r x; do
      [ -b "$r" ] && [ "$(number "$r")" = "$n" ] && echo "busy=is in use as swap"
    done < /proc/swaps
    # Where dd knows how; elsewhere it complains about something else.
    case $(LC_ALL=C dd if=/dev/null of="$t" oflag=excl conv=notrunc,nocreat count=0 2>&1) in
      *busy*) echo "busy=is held open exclusively by another program";;
    esac
  fi
  if [ -f "$t" ] && [ -r /proc/swaps ]; then
    while read -r r x; do [ -f "$r" ] && [ "$r" -ef "$t" ] && echo "busy=is in use as swap"; done < /proc/swaps
  fi
}
"#;

/// Asks about target, patch folder and program. `t`, `d`, `k` and `b` are set before.
pub(super) const SURVEY: &str = r#"
if [ -b "$t" ]; then echo kind=block
elif [ -f "$t" ]; then echo kind=file
elif [ -e "$t" ]; then echo kind=other
else echo kind=missing
fi
[ -f "$t" ] && echo "size=$(stat -L -c %s -- "$t" 2>/dev/null || wc -c < "$t")"
if [ -b "$t" ]; then
  n=$(number "$t")
  s=/sys/dev/block/$((0x${n% *})):$((0x${n#* }))
  [ -r "$s/size" ] && read -r x < "$s/size" && echo "size=$((x * 512))"
fi
usage
if [ -n "$d" ]; then
  [ -d "$d" ] && [ -w "$d" ] && echo folder=yes
  echo "free_kib=$(df -Pk -- "$d" 2>/dev/null | sed -n '$s/.* \([0-9][0-9]*\)  *[0-9][0-9]*% .*/\1/p')"
  for x in partial state state.new; do [ -e "$k.$x" ] && echo leftover=yes; done
  if [ -e "$k.ready" ]; then
    echo ready=yes
    echo "ready_bytes=$(wc -c < "$k.ready")"
    x=$(sha256sum < "$k.ready" 2>/dev/null) && echo "ready_sha256=$x"
    [ -f "$k.state" ] && printf 'state=' && tr -d '\n' < "$k.state" && echo
  fi
fi
command -v sha256sum >/dev/null 2>&1 && echo sha256sum=yes
command -v "$b" >/dev/null 2>&1 && echo program=yes
echo end=
"#;

/// Holds a lock on the target until its standard input ends.
pub(super) const HOLD: &str = r#"
exec 8< "$t" || exit 1
if command -v flock > /dev/null 2>&1; then
  # What is left over from a connection that broke just now ends by itself.
  i=0
  until flock -n 8; do
    i=$((i + 1))
    [ $i -gt 5 ] && exit 75
    echo waiting
    sleep 1
  done
fi
echo held
exec cat > /dev/null
"#;

/// Checks a stored patch and renames it. `n`, `h` and `s` are its length, digest and state.
/// [`progress`] tells how much of it is hashed.
pub(super) const COMMIT: &str = r#"
set -e
umask 077
x=$(wc -c < "$k.partial")
[ "$x" -eq "$n" ] || exit 20
exec 9< "$k.partial"
if command -v sha256sum >/dev/null 2>&1; then
  x=$(sha256sum <&9)
  [ "${x%% *}" = "$h" ] || exit 21
fi
rm -f -- "$k.state.new"
printf '%s\n' "$s" > "$k.state.new"
make_durable "$k.partial" "$k.state.new"
mv -f -- "$k.state.new" "$k.state"
mv -f -- "$k.partial" "$k.ready"
make_durable "$d"
"#;

/// Removes a ready patch for good.
pub(super) const DROP: &str = r#"rm -f -- "$k.ready" && rm -f -- "$k.state" && make_durable "$d""#;

/// Applies a ready patch with what `patch` is, and removes it; `earlier` (`true` or `false`):
/// that of an earlier run. [`progress`] tells how much of it is applied.
pub(super) const APPLY: &str = r#"
# A process left over from a broken connection may have done it meanwhile.
gone() {
  $earlier && { echo applied; exit 0; }
  echo "the ready patch has vanished before it was applied; the target was not changed" >&2
  exit 1
}
other() {
  [ -e /proc/self/fd/9 ] || return 1
  [ "$k.ready" -ef /proc/self/fd/9 ] && return 1
  echo "another patch took its place" >&2
}
[ -e "$k.ready" ] || gone
exec 9< "$k.ready" || exit
if command -v flock > /dev/null 2>&1; then
  flock 9 || exit
fi
[ -e "$k.ready" ] || gone
other && exit 1
x=$(usage | head -n 1)
[ -z "$x" ] || { echo "the target $t ${x#busy=}; it was not changed" >&2; exit 1; }
patch <&9 >&2 || exit
make_durable "$t" || { echo "the target could not be made durable" >&2; exit 1; }
other && exit 1
rm -f -- "$k.ready" || exit
rm -f -- "$k.state"
make_durable "$d"
echo applied
"#;
