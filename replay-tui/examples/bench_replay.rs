//! How soon the replay shows something, and how soon it answers a key, on a lake on disk: the real source,
//! workers, update and view, drawn into a terminal of 120 columns and 40 rows that only counts bytes.
//!
//! Prints one line of JSON: milliseconds from opening the lake to the first screen of sessions, to the whole
//! list, from opening the session of most events to its first events and to its whole timeline, the times from a
//! key to its frame, bytes a frame, and the peak memory in MiB.
//!
//! `cargo run --release -p bodycam-replay-tui --example bench_replay -- LAKE`
//!
//! A lake of ten million events comes from `bench_recorder 10000000 DIRECTORY 1000000` of the recorder.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bodycam_record::TenantKey;
use bodycam_replay_tui::app::{Msg, Start, State};
use bodycam_replay_tui::commands::Keymap;
use bodycam_replay_tui::key::Key;
use bodycam_replay_tui::theme::Theme;
use bodycam_replay_tui::update::{navigate, update};
use bodycam_replay_tui::worker::Workers;
use bodycam_replay_tui::{LakeSource, ReplayConfig, Source, view};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

#[allow(dead_code)]
#[path = "../../tests/bench/process.rs"]
mod process;

type Error = Box<dyn std::error::Error>;

const SIZE: (u16, u16) = (120, 40);
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Keys that are pressed in each list.
const LIST_KEYS: &[&str] = &["j", "ctrl-d", "j", "G", "k", "ctrl-u", "k", "g g", "ctrl-f", "ctrl-b"];
/// Keys that are pressed in the session.
const SESSION_KEYS: &[&str] = &["j", "J", "5", "ctrl-d", "9", "k", "ctrl-u", "G", "}", "g g", "3", "ctrl-f"];
const ROUNDS: usize = 20;

/// Where frames go.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Bench {
    state: State,
    workers: Workers,
    inbox: Receiver<Msg>,
    terminal: Terminal<CrosstermBackend<Counted>>,
    bytes: Counted,
    frames: usize,
}

fn main() -> Result<(), Error> {
    let location = std::env::args().nth(1).ok_or("usage: bench_replay LAKE")?;
    let start = Instant::now();
    // The key of `bench_recorder`: without one, no name and no content would be opened.
    let source: Arc<dyn Source> = Arc::new(LakeSource::open(&location, Some(TenantKey::new([1; 32])))?);
    let opened = start.elapsed();
    let mut bench = Bench::start(source)?;
    bench.until(|s| !s.sessions.loading && !s.sessions.shown.is_empty())?;
    let first_screen = start.elapsed();
    bench.until(|s| s.sessions.all.len() > 512 || !s.sessions.truncated)?;
    let all_sessions = start.elapsed();
    let sessions = bench.state.sessions.all.len();
    let events: i64 = bench.state.sessions.all.iter().map(|s| s.row.events).sum();
    let mut keys = bench.press(LIST_KEYS)?;

    let largest = bench.state.sessions.all.iter().max_by_key(|s| s.row.events).cloned();
    let largest = largest.ok_or("the lake has no sessions")?;
    let largest_events = largest.row.events;
    let open = Instant::now();
    let commands = navigate::open(&mut bench.state, largest, None);
    commands.into_iter().for_each(|c| bench.workers.give(c));
    bench.until(|s| {
        s.session.as_ref().is_some_and(|s| s.seq().is_some_and(|seq| s.pages.event(seq).is_some()))
    })?;
    let first_events = open.elapsed();
    bench.until(|s| s.session.as_ref().is_some_and(|s| s.detail.is_some()))?;
    let first_detail = open.elapsed();
    bench.until(|s| {
        s.session.as_ref().is_some_and(|s| !s.scanning && s.timeline.ticks().len() as i64 >= largest_events)
    })?;
    let timeline = open.elapsed();
    keys.extend(bench.press(SESSION_KEYS)?);
    keys.sort_unstable();

    let quantile = |q: f64| keys.get((keys.len() as f64 * q) as usize).map_or(0.0, |d| ms(*d));
    let result = serde_json::json!({
        "bench": "replay",
        "events": events,
        "sessions": sessions,
        "open_ms": ms(opened),
        "first_screen_ms": ms(first_screen),
        "all_sessions_ms": ms(all_sessions),
        "largest_session_events": largest_events,
        "session_first_events_ms": ms(first_events),
        "session_first_detail_ms": ms(first_detail),
        "session_timeline_ms": ms(timeline),
        "key_to_frame_p50_ms": quantile(0.5),
        "key_to_frame_p99_ms": quantile(0.99),
        "key_to_frame_max_ms": keys.last().map_or(0.0, |d| ms(*d)),
        "bytes_per_frame": bench.bytes.0.load(Ordering::Relaxed) / bench.frames.max(1),
        "peak_rss_mib": process::peak_kib() / 1024,
    });
    println!("{result}");
    Ok(())
}

impl Bench {
    fn start(source: Arc<dyn Source>) -> Result<Self, Error> {
        let (answers, inbox) = channel();
        let workers = Workers::start(source.clone(), answers)?;
        let bytes = Counted::default();
        let viewport = Viewport::Fixed(Rect::new(0, 0, SIZE.0, SIZE.1));
        let backend = CrosstermBackend::new(bytes.clone());
        let terminal = Terminal::with_options(backend, TerminalOptions { viewport })?;
        let (state, commands) = State::new(Start {
            lake: source.name(),
            theme: Theme { color: true, ascii: false },
            keymap: Keymap::default(),
            saved: Default::default(),
            max_sessions: ReplayConfig::default().max_sessions,
            size: SIZE,
            wall_ns: 0,
        });
        commands.into_iter().for_each(|c| workers.give(c));
        Ok(Self { state, workers, inbox, terminal, bytes, frames: 0 })
    }

    /// Takes answers and draws, as the event loop does, until the state that was drawn is as wanted.
    fn until(&mut self, wanted: impl Fn(&State) -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        self.draw()?;
        while !wanted(&self.state) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut messages = vec![self.inbox.recv_timeout(left)?];
            messages.extend(self.inbox.try_iter().take(256));
            for msg in messages {
                if let Msg::Failed { error, .. } | Msg::PageFailed { error, .. } = &msg {
                    return Err(error.clone().into());
                }
                self.tell(msg);
            }
            self.draw()?;
        }
        Ok(())
    }

    /// Presses each of the keys some times, and gives the times until the frames that follow were drawn.
    fn press(&mut self, keys: &[&str]) -> Result<Vec<Duration>, Error> {
        let mut times = Vec::new();
        for sequence in keys.iter().cycle().take(keys.len() * ROUNDS) {
            let start = Instant::now();
            for key in Key::sequence(sequence).ok_or("this is no key")? {
                self.tell(Msg::Key(key));
            }
            self.draw()?;
            times.push(start.elapsed());
            // What was asked for comes in meanwhile.
            while let Ok(msg) = self.inbox.recv_timeout(Duration::from_millis(5)) {
                let start = Instant::now();
                self.tell(msg);
                self.draw()?;
                times.push(start.elapsed());
            }
        }
        Ok(times)
    }

    fn tell(&mut self, msg: Msg) {
        update(&mut self.state, msg).into_iter().for_each(|c| self.workers.give(c));
    }

    fn draw(&mut self) -> Result<(), Error> {
        self.terminal.draw(|frame| {
            view::view(&self.state, frame);
            view::censor(frame.buffer_mut());
        })?;
        self.frames += 1;
        Ok(())
    }
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
