//! What a hostile argument, environment variable or path can do to the terminal of whoever runs a command: nothing.

use std::process::{Output, Stdio};

use crate::support::stack::bodycam;

/// Writes to the clipboard (OSC 52), renames the window, and turns the text round.
const HOSTILE: [&str; 3] =
    ["\u{1b}]52;c;eA==\u{7}", "\u{9b}31m\u{9d}0;x\u{9c}", "a\u{202e}b\nbodycam: all is well"];

fn assert_safe(what: &str, output: &Output) {
    let said = [output.stdout.clone(), output.stderr.clone()].concat();
    let text = String::from_utf8(said).unwrap();
    assert!(!text.is_empty(), "{what}: it says something");
    let hostile = text.chars().find(|c| *c != '\n' && bodycam_record::shown::is_hostile(*c));
    assert_eq!(hostile, None, "{what}: {text:?}");
    assert!(!text.lines().any(|line| line == "bodycam: all is well"), "{what}: {text:?}");
}

#[test]
fn what_a_command_repeats_of_its_arguments_does_nothing_to_a_terminal() {
    for hostile in HOSTILE {
        let cases: [&[&str]; 7] = [
            &[hostile],
            &["query", "--format", hostile, "x"],
            &["query", hostile, "--lake", "/nowhere"],
            &["query", "x", "--lake", hostile],
            &["verify", "--lake", hostile],
            &["config", "check", "--config", hostile],
            &["verify", "--as-of", hostile, "--lake", "/"],
        ];
        for arguments in cases {
            // As on a terminal.
            let output = bodycam().env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1").args(arguments).output();
            let output = output.unwrap();
            assert!(!output.status.success(), "{arguments:?}");
            assert_safe(&format!("{arguments:?}"), &output);
        }
        let mut command = bodycam();
        let output = command.env("BODYCAM_CONFIG", hostile).args(["verify", "--help"]).output().unwrap();
        assert_safe("--help with a variable", &output);
    }
    let output =
        bodycam().env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1").arg("--nothing").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("\u{1b}["), "colours stay where nothing speaks against them: {said:?}");
}

#[test]
fn the_path_of_a_usable_configuration_does_nothing_to_a_terminal() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let toml = readme.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    for hostile in ["\u{1b}]0;x\u{7}.toml", "a\u{202e}b.toml"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(hostile);
        std::fs::write(&path, toml).unwrap();
        let mut check = bodycam();
        check.args(["config", "check", "--config"]).arg(&path).env("SHOP_PASSWORD", "a password");
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_safe(hostile, &output);
    }
}

#[test]
fn a_command_ends_as_it_ends_whether_or_not_its_words_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = ["detect", "test", dir.path().to_str().unwrap()];
    let failing: [(&[&str], i32); 4] = [
        (&["verify", "--lake", "/nonexistent"], 1),
        (&["query", "SELECT 1", "--lake", "/nonexistent"], 2),
        (&fixtures, 2),
        (&["--nothing"], 2),
    ];
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let gone = || std::io::pipe().unwrap().1;
    for (arguments, code) in failing {
        for nowhere in [Stdio::from(full()), Stdio::from(gone())] {
            let status = bodycam().args(arguments).stderr(nowhere).stdout(Stdio::null()).status().unwrap();
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
    }
    for arguments in [&["config", "reference"][..], &["keys"], &["detect", "test"], &["detect", "ls"]] {
        let status = bodycam().args(arguments).stdout(gone()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}: a reader that has seen enough is no failure");
    }
    let status = bodycam().args(["config", "reference"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2), "what was asked for could not be written");
}

#[test]
fn the_help_names_every_table_and_refuses_no_memory() {
    let help = bodycam().args(["query", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for (name, _) in bodycam_analyzer::engine::tables() {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{name} "))),
            "{name}: {help}"
        );
    }
    let none = bodycam().args(["query", "SELECT 1", "--memory", "0", "--lake", "/"]).output().unwrap();
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(2) && said.contains("--memory"), "{said}");
}
