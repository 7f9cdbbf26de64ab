//! How the client splits, starts and listens to the remote command.

use bdsync_tests::patch::Patch;
use bdsync_tests::{Outcome, Recipe, WorkDir, bdsync};

fn images() -> WorkDir {
    let dir = WorkDir::new();
    let image = Recipe::random(10_000, 3).build();
    dir.write("target.img", &image);
    dir.write("source.img", &image);
    dir
}

fn run(dir: &WorkDir, command: &str) -> Outcome {
    dir.bdsync([command, "source.img", "target.img"]).run()
}

#[test]
fn the_command_is_split_at_spaces_and_quotes_group() {
    let dir = images();
    let body = format!("for a in \"$@\"; do printf '<%s>' \"$a\"; done > seen\nexec {} --server", bdsync());
    dir.script("show", &body);
    for (arguments, seen) in [
        ("a  b", "<a><b>"),
        ("'a b' c", "<a b><c>"),
        ("\"a b\"c", "<a bc>"),
        ("a'b c'd", "<ab cd>"),
        ("''", "<>"),
        ("'a'\"b\"", "<ab>"),
        ("\"it's\"", "<it's>"),
        ("'say \"x\"'", "<say \"x\">"),
        ("a\\b", "<a\\b>"),
        ("a\\ b", "<a\\><b>"),
        ("$HOME * ~ ; | `x` > y", "<$HOME><*><~><;><|><`x`><>><y>"),
        ("a\tb", "<a\tb>"),
        ("a   ", "<a>"),
        ("--server -x", "<--server><-x>"),
    ] {
        run(&dir, &format!("./show {arguments}")).exits(0).says("");
        assert_eq!(String::from_utf8_lossy(&dir.read("seen")), seen, "{arguments}");
    }
    run(&dir, "  ./show").exits(0);
    run(&dir, "'./show' a").exits(0);
}

#[test]
fn an_open_quote_is_refused() {
    let dir = images();
    for command in ["./show 'a b", "./show a\"b", "'"] {
        let outcome = run(&dir, command);
        outcome.exits(1);
        assert!(outcome.stderr.starts_with("Missing trailing"), "{outcome}");
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
    }
}

#[test]
fn an_empty_command_is_refused_with_a_message() {
    let dir = images();
    for command in ["", "   "] {
        let outcome = run(&dir, command);
        assert!(matches!(outcome.code, Some(1 | 6 | 8)), "{outcome}");
        assert!(!outcome.stderr.is_empty(), "{outcome}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
}

#[test]
fn lines_on_the_commands_stderr_come_out_marked() {
    let dir = images();
    let server = bdsync();
    dir.script("talk", &format!("echo BEFORE >&2\n{server} --server\necho AFTER >&2\necho LAST >&2"));
    run(&dir, "./talk").exits(0).says("RMTERR: BEFORE\nRMTERR: AFTER\nRMTERR: LAST\n");
}

#[test]
fn unprintable_characters_on_the_commands_stderr_are_dropped() {
    let dir = images();
    let noise = "printf 'one\\ttwo\\001x\\377y\\303\\251 \\033[31mend\\n' >&2";
    dir.script("noise", &format!("{noise}\nexec {} --server", bdsync()));
    run(&dir, "./noise").exits(0).says("RMTERR: onetwoxy [31mend\n");
}

#[test]
fn the_commands_last_words_are_heard_without_a_line_end() {
    let dir = images();
    dir.script("fail", "printf 'first\\nlast words' >&2; exit 5");
    let outcome = run(&dir, "./fail");
    assert_ne!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("RMTERR: first\n"), "{outcome}");
    assert!(outcome.stderr.contains("RMTERR: last words"), "{outcome}");
}

#[test]
fn the_commands_exit_status_becomes_the_clients() {
    let dir = images();
    for code in [1, 5, 7, 42, 255] {
        let server = bdsync();
        dir.script("wrap", &format!("{server} --server\nexit {code}"));
        let outcome = run(&dir, "./wrap");
        outcome.exits(code);
        assert!(Patch::parse(&outcome.stdout).is_some(), "no complete patch: {outcome}");
        let inline = format!("sh -c '{server} --server; exit {code}'");
        run(&dir, &inline).exits(code).says("");
    }
}

#[test]
fn a_command_that_ends_before_the_session_is_a_read_error() {
    let dir = images();
    for command in ["true", "false", "sh -c 'exit 5'"] {
        let outcome = run(&dir, command);
        outcome.exits(6);
        assert!(!outcome.stderr.is_empty(), "{outcome}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
}

#[test]
fn a_command_that_does_not_speak_the_protocol_is_a_protocol_or_read_error() {
    let dir = images();
    for command in ["cat", "echo hello", "echo 'Last login: today on a terminal that greets everyone'"] {
        let outcome = run(&dir, command);
        assert!(matches!(outcome.code, Some(4 | 6)), "{outcome}");
        assert!(!outcome.stderr.is_empty(), "{outcome}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
}

#[test]
fn a_command_that_cannot_start_is_named_with_the_reason() {
    let dir = images();
    dir.write("no-program", b"just text");
    for (command, reason) in [
        ("no-such-command-here", "No such file or directory"),
        ("./no-program", "Permission denied"),
        ("/ a", "Permission denied"),
    ] {
        let outcome = run(&dir, command);
        assert!(matches!(outcome.code, Some(6 | 8)), "{outcome}");
        assert!(outcome.stderr.contains(reason), "{outcome}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
}

#[test]
fn a_command_killed_after_a_good_session_leaves_a_complete_patch() {
    let dir = images();
    dir.script("dies", &format!("{} --server\nkill -9 $$", bdsync()));
    let outcome = run(&dir, "./dies");
    assert!(outcome.code.is_some(), "{outcome}");
    assert!(Patch::parse(&outcome.stdout).is_some(), "no complete patch: {outcome}");
}

#[test]
fn a_missing_remote_device_is_explained_by_the_server() {
    let dir = images();
    let outcome = dir.client([], "source.img", "no-such.img").run();
    assert!(matches!(outcome.code, Some(6 | 12)), "{outcome}");
    assert!(!outcome.stderr.is_empty(), "{outcome}");
    assert!(outcome.stdout.is_empty(), "{outcome}");
}
