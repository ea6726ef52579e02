//! Journeys through the replay under tmux: the real binary, a lake from the lake's own writer, keys and screens.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fixture::Company;

#[allow(dead_code)]
#[path = "../../replay-tui/src/fixture.rs"]
mod fixture;

/// Longest wait for something to appear.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal of its own, on a tmux server of its own.
struct Tmux {
    socket: String,
    dir: PathBuf,
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

impl Tmux {
    /// Runs `bodycam` with `arguments` in a terminal of 120×40; the terminal stays when it ends. Everything that
    /// is written to the terminal is kept in `raw`.
    fn run(dir: &Path, name: &str, arguments: &str) -> Self {
        let terminal = Self { socket: format!("bodycam-{name}-{}", std::process::id()), dir: dir.to_owned() };
        let script = dir.join(format!("{name}.sh"));
        let bodycam = env!("CARGO_BIN_EXE_bodycam");
        let text = format!(
            "read -r start\nexport LANG=C.UTF-8 LC_ALL=C.UTF-8\n'{bodycam}' {arguments}\necho \"left with $?\"\nstty -a | grep -o 'icanon' | head -1\nsleep 1000\n"
        );
        std::fs::write(&script, text).unwrap();
        let shell = format!("sh '{}'", script.display());
        let started =
            terminal.tmux(&["-f", "/dev/null", "-u", "new-session", "-d", "-x", "120", "-y", "40", &shell]);
        assert!(started.status.success(), "tmux is needed: {}", String::from_utf8_lossy(&started.stderr));
        let keep = format!("cat > '{}'", terminal.raw_file().display());
        assert!(terminal.tmux(&["pipe-pane", "-O", &keep]).status.success());
        // Only now does the program start: nothing that it writes is missed.
        terminal.keys(&["Enter"]);
        terminal
    }

    fn raw_file(&self) -> PathBuf {
        self.dir.join(format!("{}.raw", self.socket))
    }

    fn raw(&self) -> Vec<u8> {
        std::fs::read(self.raw_file()).unwrap_or_default()
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        Command::new("tmux").args(["-L", &self.socket]).args(arguments).output().expect("tmux is needed")
    }

    fn keys(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys"];
        arguments.extend(keys);
        assert!(self.tmux(&arguments).status.success());
    }

    fn text(&self, text: &str) {
        assert!(self.tmux(&["send-keys", "-l", text]).status.success());
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    /// Waits until the screen holds all of `parts`, and gives it.
    fn shows(&self, parts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            match parts.iter().find(|p| !screen.contains(**p)) {
                None => return screen,
                Some(missing) => assert!(Instant::now() < deadline, "'{missing}' did not appear:\n{screen}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the terminal was handed something that holds `part`.
    fn clipboard_holds(&self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let held = String::from_utf8_lossy(&self.tmux(&["show-buffer"]).stdout).into_owned();
            if held.contains(part) {
                return;
            }
            assert!(Instant::now() < deadline, "'{part}' was not copied:\n{held}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Gives the terminal this many columns and rows.
    fn resize(&self, width: &str, height: &str) {
        assert!(self.tmux(&["resize-window", "-x", width, "-y", height]).status.success());
    }

    /// Process id of the program in the terminal.
    fn program(&self) -> u32 {
        let shell = String::from_utf8(self.tmux(&["list-panes", "-F", "#{pane_pid}"]).stdout).unwrap();
        let children = format!("/proc/{0}/task/{0}/children", shell.trim());
        std::fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn key_file(dir: &Path) -> String {
    let path = dir.join("tenant.key");
    std::fs::write(&path, "2a".repeat(32)).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    format!("file:{}", path.display())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Processor time that a process has used, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_analyst_finds_a_bulk_pull_replays_it_and_follows_it_to_where_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    let mut company = runtime().block_on(Company::record(&lake));
    let arguments = format!("replay --lake '{}' --tenant-key '{}'", lake.display(), key_file(dir.path()));
    let terminal = Tmux::run(dir.path(), "journey", &arguments);

    terminal.shows(&["4 sessions", "support-copilot", "etl-nightly", "!EXF-002", "? help"]);
    terminal.text("f");
    terminal.text("rows>10k has:finding");
    terminal.keys(&["Enter"]);
    terminal.shows(&["1 of 4 sessions", "filter rows>10k has:finding", "1 hits"]);
    terminal.keys(&["Enter"]);
    terminal.shows(&["support-copilot → customers-db/shop", "chain ✔ 9/9", "DENY", "paused 1x", "event 1/9"]);
    terminal.text("}");
    terminal.shows(&[
        "event 4/9",
        "region = $1←'EU'",
        "person0@example.org",
        "300 of 48,200 rows stored, truncated",
    ]);

    // What is copied arrives in the terminal's clipboard.
    assert!(terminal.tmux(&["set", "-g", "set-clipboard", "on"]).status.success());
    let pull = company.bulk.session();
    for (keys, copied) in [
        ("yp", format!("bodycam://session/{pull}#3")),
        ("yy", format!("{pull}#3")),
        ("ys", "region = $1←'EU'".to_owned()),
        ("yj", format!("\"session\":\"{pull}\"")),
    ] {
        terminal.text(keys);
        terminal.shows(&["sent to the terminal's clipboard"]);
        terminal.clipboard_holds(&copied);
    }

    // Playing moves the cursor by itself, to the end.
    terminal.text("++");
    terminal.keys(&["Space"]);
    terminal.shows(&["event 9/9", "paused 4x"]);

    // From the finding to its evidence, across sessions.
    terminal.text("gf");
    terminal.shows(&["3 findings", "One result of 48,200 rows was read from a sensitive relation."]);
    terminal.text("/014");
    terminal.keys(&["Enter", "Enter"]);
    terminal.shows(&["EXF-014: evidence 1 of 3", "customers-db", "event 5/9"]);
    terminal.text("}");
    terminal.shows(&["support-copilot → egress", "url: files.example.net:443", "EXF-014: evidence 2 of 3"]);

    // A terminal that is made small says so, and comes back, without a key.
    terminal.resize("50", "12");
    terminal.shows(&["60x16 needed, 50x12 here"]);
    terminal.resize("60", "16");
    terminal.shows(&["support-copilot → egress", "EXF-014: evidence 2 of 3"]);
    terminal.resize("120", "40");
    terminal.shows(&["support-copilot → egress", "url: files.example.net:443"]);
    // What something else wrote over the screen goes away by a key.
    terminal.keys(&["C-l"]);
    terminal.shows(&["support-copilot → egress"]);

    // The lake grows while an open session is followed.
    terminal.text(&format!(":open {}", company.live.session()));
    terminal.keys(&["Enter"]);
    terminal.shows(&["etl-nightly → orders-db", "event 1/7"]);
    terminal.text("L");
    terminal.shows(&["following", "event 7/7"]);
    let statement = company.live.statement(b"SELECT 'just now'", &[], "allow", &["public.orders"]);
    company.live.result(statement, &["x"], &[vec![Some(b"1".to_vec())]], 1);
    let Company { dir: lake_dir, live, .. } = &mut company;
    runtime().block_on(lake_dir.commit(&mut [live], &[]));
    terminal.shows(&["event 9/9", "SELECT 'just now'", "chain ✔ 9/9"]);

    // Idle, it sleeps.
    terminal.text("?");
    terminal.shows(&[":live-edge"]);
    let program = terminal.program();
    let before = ticks(program);
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks(program) - before;
    assert!(used <= 6, "{used} ticks of 200 used while idle");

    terminal.keys(&["Escape"]);
    terminal.text("Q");
    terminal.shows(&["left with 0", "icanon"]);
}

#[test]
fn hostile_recordings_reach_the_terminal_only_as_letters() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    let hostile = runtime().block_on(Company::record_hostile(&lake));
    let key = key_file(dir.path());
    let arguments = format!("replay {} --lake '{}' --tenant-key '{key}'", hostile.session(), lake.display());
    let terminal = Tmux::run(dir.path(), "hostile", &arguments);
    terminal.shows(&["\\x1b[31mred", "chain ✔"]);
    for keys in
        [&["j"][..], &["j"], &["J"], &["Enter"], &["p"], &["x"], &["x"], &["\\"], &["q"], &["J"], &["G"]]
    {
        terminal.keys(keys);
    }
    terminal.text("gf");
    terminal.shows(&["1 findings"]);
    terminal.keys(&["Enter"]);
    terminal.shows(&["evidence 1 of 1"]);
    terminal.text("gs");
    terminal.shows(&["1 sessions"]);
    terminal.text("f");
    terminal.shows(&["filter:"]);
    terminal.keys(&["Escape"]);
    let before_leaving = terminal.raw();
    terminal.text("Q");
    terminal.shows(&["left with 0"]);

    let raw = String::from_utf8_lossy(&before_leaving);
    assert!(raw.len() > 2000 && raw.contains("\\x1b]52"), "the screens were recorded");
    assert!(!raw.contains("\x1b]52"), "OSC 52 reached the terminal");
    assert!(!raw.contains("\x1b[31mred"), "a recorded colour reached the terminal");
    assert!(
        !raw.contains('\0')
            && !raw.contains('\u{202e}')
            && !raw.contains('\u{2066}')
            && !raw.contains('\u{9b}')
    );
}

#[test]
fn a_terminal_is_given_back_when_the_replay_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    runtime().block_on(Company::record(&lake));
    let terminal = Tmux::run(dir.path(), "signal", &format!("replay --lake '{}'", lake.display()));
    terminal.shows(&["4 sessions", "~"]);
    crate::support::stack::signal(terminal.program(), "TERM");
    let screen = terminal.shows(&["left with 0", "icanon"]);
    assert!(!screen.contains("4 sessions"), "the alternate screen is left:\n{screen}");
}

#[test]
fn a_terminal_is_given_back_while_the_replay_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    runtime().block_on(Company::record(&lake));
    let replay = format!("'{}' replay --lake '{}'", env!("CARGO_BIN_EXE_bodycam"), lake.display());
    // With job control the shell goes on when its child stops.
    let stopped = "echo \"stopped with $?\"; stty -a | grep -o ' icanon'; read -r again; fg >/dev/null";
    let terminal = Tmux::run(dir.path(), "stop", &format!("--help >/dev/null; set -m; {replay}; {stopped}"));
    terminal.shows(&["4 sessions", "~"]);
    terminal.keys(&["C-z"]);
    let screen = terminal.shows(&["stopped with", "icanon"]);
    assert!(!screen.contains("4 sessions"), "the alternate screen is left:\n{screen}");
    terminal.resize("100", "30");
    terminal.keys(&["Enter"]);
    terminal.shows(&["4 sessions", "~"]);
    crate::support::stack::signal(terminal.program(), "TSTP");
    // The second stop went back to the shell, which has no more to do with it.
    terminal.shows(&["left with"]);
}

#[test]
fn without_a_terminal_the_replay_names_its_twin() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("lake");
    let company = runtime().block_on(Company::record(&lake));
    let session = company.bulk.session().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_bodycam"))
        .args(["replay", &session, "--lake", lake.to_str().unwrap()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains(&format!("bodycam replay {session} --format text")), "{message}");

    // A terminal that only prints lines gets lines.
    let arguments =
        format!("replay {session} --lake '{}' --tenant-key '{}'", lake.display(), key_file(dir.path()));
    let terminal = Tmux::run(
        dir.path(),
        "dumb",
        &format!("--help >/dev/null; TERM=dumb '{}' {arguments}", env!("CARGO_BIN_EXE_bodycam")),
    );
    terminal.shows(&["session closed (client)", "left with 0"]);
    assert!(!terminal.raw().contains(&0x1b), "no escapes at all");
}
