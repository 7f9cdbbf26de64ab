//! `PROGRESS:` lines, which other programs read.

use bdsync_tests::patch::Patch;
use bdsync_tests::{Recipe, WorkDir};

const SIZE: usize = 300_001;

fn images() -> WorkDir {
    let dir = WorkDir::new();
    let mut image = Recipe::random(SIZE, 3).build();
    dir.write("target.img", &image);
    image[100_000] ^= 1;
    dir.write("source.img", &image);
    dir
}

/// A line taken apart; the times are as printed.
#[derive(Debug)]
struct Line<'a> {
    percent: u64,
    patch_bytes: u64,
    position: u64,
    size: u64,
    elapsed: &'a str,
    remaining: &'a str,
}

#[track_caller]
fn parse(line: &str) -> Line<'_> {
    let read = || {
        let (percent, rest) = line.strip_prefix("PROGRESS:")?.split_once("%,")?;
        let fields: Vec<&str> = rest.split(',').collect();
        let &[patch_bytes, position, size, elapsed, tail] = fields.as_slice() else { return None };
        let unknown = elapsed == "-";
        // Stock blanks out what a longer line left behind, but not while the times are unknown.
        let remaining = if unknown { tail.trim_end_matches(' ') } else { tail.strip_suffix("        ")? };
        if percent.len() != 3 || unknown != (remaining == "-") {
            return None;
        }
        let decimals = |time: &str| time == "-" || time.split_once('.').is_some_and(|(_, digits)| digits.len() == 3);
        if !decimals(elapsed) || !decimals(remaining) {
            return None;
        }
        let [percent, patch_bytes, position, size] = [percent, patch_bytes, position, size].map(str::parse);
        Some(Line {
            percent: percent.ok()?,
            patch_bytes: patch_bytes.ok()?,
            position: position.ok()?,
            size: size.ok()?,
            elapsed,
            remaining,
        })
    };
    read().unwrap_or_else(|| panic!("not a line of progress: {line:?}"))
}

#[track_caller]
fn check(text: &str, end: char, size: usize, patch: &[u8]) {
    let text = text.strip_suffix(end).unwrap_or_else(|| panic!("does not end a line: {text:?}"));
    let lines: Vec<Line> = text.split(end).map(parse).collect();
    let (first, last) = (lines.first().expect("a line"), lines.last().expect("a line"));
    assert_eq!((first.percent, first.position, first.elapsed), (0, 0, "-"), "{first:?}");
    assert_eq!((last.percent, last.position), (100, size as u64), "{last:?}");
    assert_ne!(last.remaining, "-", "{last:?}");
    assert!(last.patch_bytes <= patch.len() as u64, "{last:?}, {} bytes", patch.len());
    for line in &lines {
        assert_eq!(line.size, size as u64, "{line:?}");
        assert!(line.position <= line.size, "{line:?}");
    }
    for pair in lines.windows(2) {
        assert!(pair[0].percent <= pair[1].percent, "{pair:?}");
        assert!(pair[0].patch_bytes <= pair[1].patch_bytes, "{pair:?}");
    }
}

#[test]
fn progress_goes_line_by_line_from_0_to_100_percent() {
    let dir = images();
    for options in [&["--progress"][..], &["--progress", "--twopass"], &["--progress", "--remdata"]] {
        let outcome = dir.client(options.iter().copied(), "source.img", "target.img").run();
        outcome.exits(0);
        assert!(Patch::parse(&outcome.stdout).is_some());
        check(&outcome.stderr, '\n', SIZE, &outcome.stdout);
    }
}

#[test]
fn noscroll_stays_on_one_line() {
    let dir = images();
    let outcome = dir.client(["--progress=noscroll"], "source.img", "target.img").run();
    outcome.exits(0);
    // The line is ended once, when all is done.
    let text = outcome.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("an open line: {outcome}"));
    assert!(!text.contains('\n'), "{outcome}");
    check(text, '\r', SIZE, &outcome.stdout);
}

#[test]
fn progress_on_empty_devices_is_100_percent() {
    let dir = WorkDir::new();
    dir.write("source.img", b"");
    dir.write("target.img", b"");
    let outcome = dir.client(["--progress"], "source.img", "target.img").run();
    outcome.exits(0);
    let lines = outcome.lines();
    assert_eq!(parse(lines.last().expect("a line")).percent, 100, "{outcome}");
    assert!(lines.iter().all(|line| parse(line).size == 0), "{outcome}");
}

#[test]
fn progress_of_different_sizes_ends_at_100_percent() {
    let dir = images();
    dir.write("small.img", &Recipe::random(50_000, 3).build());
    for (local, remote) in [("source.img", "small.img"), ("small.img", "source.img")] {
        let outcome = dir.client(["--progress", "--diffsize"], local, remote).run();
        outcome.exits(0);
        let last = parse(outcome.lines().pop().expect("a line"));
        assert_eq!((last.percent, last.position), (100, last.size), "{outcome}");
    }
}
