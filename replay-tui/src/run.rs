//! The terminal: opened, listened to, drawn on, and always given back.
//!
//! The loop sleeps until a key, an answer or the player's next event; an idle replay costs no processor time.

use std::io::{IsTerminal, Stdout, Write, stdout};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bodycam_lake::Store;
use bodycam_record::{SessionId, TenantKey};
use crossterm::event::{
    DisableMouseCapture, EnableMouseCapture, Event, KeyEventKind, MouseButton, MouseEventKind,
};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Position, Rect};

use crate::app::{Cmd, Msg, Screen, Start, State};
use crate::clipboard;
use crate::config::ReplayConfig;
use crate::error::ReplayError;
use crate::key::Key;
use crate::source::{LakeSource, Source};
use crate::text::{self, ListOptions, ReplayText};
use crate::theme::Theme;
use crate::update::{navigate, update};
use crate::view;
use crate::worker::Workers;

/// How often the lake is asked for new commits.
const REFRESH: Duration = Duration::from_secs(1);
/// Shortest time between two frames while playing.
const FRAME: Duration = Duration::from_millis(33);
/// Longest time between two frames while playing, so that the clock is seen to run.
const CLOCK: Duration = Duration::from_millis(100);

/// What is replayed, and how.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// The lake.
    pub lake: Store,
    /// The tenant key, for names and content.
    pub tenant_key: Option<TenantKey>,
    /// The session to open at once, and the place in it (`+12:31`, `#812`).
    pub session: Option<SessionId>,
    /// The place in that session.
    pub at: Option<String>,
    /// Whether colours are used; by the environment when none.
    pub color: Option<bool>,
    /// Whether only ASCII is used for our own signs; by the environment when none.
    pub ascii: Option<bool>,
    /// `[replay]`.
    pub config: ReplayConfig,
}

impl ReplayOptions {
    /// The list of the sessions in `lake`, without names and content, as the environment has the terminal.
    pub fn of(lake: Store) -> Self {
        let config = ReplayConfig::default();
        Self { lake, tenant_key: None, session: None, at: None, color: None, ascii: None, config }
    }
}

/// How the replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was left.
    Left,
    /// Standard input or output is no terminal that can show it: use a twin. [`no_terminal_hint`] says which.
    NoTerminal,
}

/// What to tell someone whose output is no terminal.
pub fn no_terminal_hint(session: Option<SessionId>) -> String {
    let session = session.map_or("SESSION".to_owned(), |s| s.to_string());
    format!(
        "the replay needs a terminal; without one use `bodycam sessions ls` and `bodycam replay {session} --format text`"
    )
}

/// Opens the replay in this terminal. Returns when it is left.
pub fn run(options: ReplayOptions) -> Result<Ended, ReplayError> {
    let term = std::env::var("TERM").unwrap_or_default();
    if !stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Ok(Ended::NoTerminal);
    }
    let keymap = options.config.keymap()?;
    if let Some(at) = &options.at
        && crate::timeline::Goto::parse(at).is_none()
    {
        return Err(ReplayError::Position(bodycam_record::shown(at)));
    }
    let source: Arc<dyn Source> = Arc::new(LakeSource::of(options.lake.clone(), options.tenant_key.clone())?);
    if term.is_empty() || term == "dumb" {
        plain(source.as_ref(), &options)?;
        return Ok(Ended::Left);
    }
    let session = match options.session {
        None => None,
        Some(id) => Some(source.session(id)?.ok_or_else(|| ReplayError::NoSession(id.to_string()))?),
    };
    let (events, inbox) = channel();
    let workers = Workers::start(source.clone(), events.clone())?;
    let mut screen = TerminalGuard::open(options.config.mouse)?;
    let size = screen.terminal.size()?;
    let (mut state, commands) = State::new(Start {
        lake: source.name(),
        theme: Theme::of(options.color, options.ascii, |name| std::env::var(name).ok()),
        keymap,
        saved: options.config.filters.clone(),
        max_sessions: options.config.max_sessions.max(1),
        size: (size.width, size.height),
        wall_ns: wall_ns(),
    });
    commands.into_iter().for_each(|c| workers.give(c));
    if let Some(session) = session {
        navigate::open(&mut state, session, None).into_iter().for_each(|c| workers.give(c));
        state.at_start = options.at.as_deref().and_then(crate::timeline::Goto::parse);
    }
    listen(events.clone())?;
    hear_signals(events.clone())?;
    follow(source, events)?;
    event_loop(&mut state, &inbox, &workers, &mut screen)?;
    Ok(Ended::Left)
}

fn event_loop(
    state: &mut State,
    inbox: &Receiver<Msg>,
    workers: &Workers,
    screen: &mut TerminalGuard,
) -> Result<(), ReplayError> {
    let started = Instant::now();
    screen.draw(state)?;
    while !state.quit {
        let now_ns = nanos(started.elapsed());
        let first = match wait_for(state, now_ns) {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => inbox.recv_timeout(wait),
        };
        state.now_ns = nanos(started.elapsed());
        state.wall_ns = wall_ns();
        let mut messages = match first {
            Ok(msg) => vec![msg],
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        // What has piled up is one frame.
        messages.extend(inbox.try_iter().take(256));
        if is_playing(state) {
            messages.push(Msg::Tick);
        }
        for msg in messages {
            let commands: Vec<Cmd> = update(state, msg);
            commands.into_iter().for_each(|c| workers.give(c));
        }
        if let Some(text) = state.copy.take() {
            clipboard::put(&text)?;
        }
        if std::mem::take(&mut state.suspend) {
            suspend(state, screen, workers)?;
        }
        screen.draw(state)?;
    }
    Ok(())
}

/// Gives the terminal back and stops, until a shell continues the process.
fn suspend(state: &mut State, screen: &mut TerminalGuard, workers: &Workers) -> Result<(), ReplayError> {
    if !has_a_shell() {
        state.say("there is no shell to go back to; Q leaves");
        return Ok(());
    }
    give_back();
    signal_hook::low_level::raise(signal_hook::consts::SIGSTOP)?;
    screen.take()?;
    let size = screen.terminal.size()?;
    // The terminal may have changed its size meanwhile.
    update(state, Msg::Resize(size.width, size.height)).into_iter().for_each(|c| workers.give(c));
    Ok(())
}

/// Whether a shell with job control started this process as a job of its own: only then does anyone see that
/// it stopped, and continue it.
fn has_a_shell() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(2);
    let (group, session) = (fields.next(), fields.next());
    let own = std::process::id().to_string();
    group == Some(own.as_str()) && session != group
}

fn is_playing(state: &State) -> bool {
    state.screen == Screen::Session && state.session.as_ref().is_some_and(|s| s.player.playing)
}

/// How long nothing will change by itself.
fn wait_for(state: &State, now_ns: i64) -> Option<Duration> {
    let session = state.session.as_ref().filter(|_| is_playing(state))?;
    let due = session.player.next_due_ns(&session.timeline);
    let wait = due.map_or(CLOCK, |due| Duration::from_nanos(u64::try_from(due - now_ns).unwrap_or(0)));
    Some(wait.clamp(FRAME, CLOCK))
}

/// Reads the terminal's events on a thread of their own, for as long as the process lives.
fn listen(events: Sender<Msg>) -> Result<(), ReplayError> {
    let read = move || {
        while let Ok(event) = crossterm::event::read() {
            let msg = match event {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if Key::pressed(key).into_iter().any(|key| events.send(Msg::Key(key)).is_err()) {
                        return;
                    }
                    continue;
                }
                Event::Resize(width, height) => Msg::Resize(width, height),
                Event::Mouse(mouse) => match mouse.kind {
                    MouseEventKind::Down(MouseButton::Left) => Msg::Click(mouse.column, mouse.row),
                    MouseEventKind::ScrollDown => Msg::Wheel(3),
                    MouseEventKind::ScrollUp => Msg::Wheel(-3),
                    _ => continue,
                },
                _ => continue,
            };
            if events.send(msg).is_err() {
                return;
            }
        }
    };
    spawn("replay-keys", read)
}

/// Asks the lake each second whether something was committed. An error is told once, until it goes away.
fn follow(source: Arc<dyn Source>, events: Sender<Msg>) -> Result<(), ReplayError> {
    let ask = move || {
        let mut failed = false;
        loop {
            std::thread::sleep(REFRESH);
            let told = match source.refresh() {
                Ok(moved) => {
                    failed = false;
                    if !moved || events.send(Msg::Refreshed).is_ok() { Ok(()) } else { Err(()) }
                }
                Err(err) if !failed => {
                    failed = true;
                    events.send(Msg::Failed { generation: 0, error: err.to_string() }).map_err(drop)
                }
                Err(_) => Ok(()),
            };
            if told.is_err() {
                return;
            }
        }
    };
    spawn("replay-follow", ask)
}

/// Leaves in order when the process is asked to end, and stops in order when it is asked to stop, so that the
/// terminal is given back.
fn hear_signals(events: Sender<Msg>) -> Result<(), ReplayError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|err| ReplayError::Worker(err.to_string()))?;
    let wait = move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let stop = SignalKind::from_raw(signal_hook::consts::SIGTSTP);
            let (Ok(mut terminate), Ok(mut hangup), Ok(mut stop)) =
                (signal(SignalKind::terminate()), signal(SignalKind::hangup()), signal(stop))
            else {
                return;
            };
            loop {
                let msg = tokio::select! {
                    _ = terminate.recv() => Msg::Quit,
                    _ = hangup.recv() => Msg::Quit,
                    _ = stop.recv() => Msg::Suspend,
                };
                // Nobody there to take it means that it is being left already.
                if events.send(msg).is_err() {
                    return;
                }
            }
        });
    };
    spawn("replay-signals", wait)
}

/// A terminal that can only print lines gets the lines: the list of sessions, or the session as text.
fn plain(source: &dyn Source, options: &ReplayOptions) -> Result<(), ReplayError> {
    let mut out = stdout().lock();
    match options.session {
        Some(session) => {
            let replay = ReplayText {
                session: session.to_string(),
                at: options.at.clone(),
                rows: 20,
                ascii: true,
                ..ReplayText::default()
            };
            text::replay(source, &replay, &mut out)?;
        }
        None => {
            let list = ListOptions { limit: 100, ..ListOptions::default() };
            text::sessions(source, &list, &mut out)?;
        }
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ReplayError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|err| ReplayError::Worker(err.to_string()))
}

/// The terminal in raw mode on the alternate screen. Given back when dropped, and when the process panics.
struct TerminalGuard {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    mouse: bool,
}

impl TerminalGuard {
    fn open(mouse: bool) -> Result<Self, ReplayError> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
            // Without one of its threads the replay would go on in a terminal that it no longer has.
            if std::thread::current().name() != Some("main") {
                std::process::exit(101);
            }
        }));
        let mut screen = Self { terminal: Terminal::new(CrosstermBackend::new(stdout()))?, mouse };
        screen.take()?;
        Ok(screen)
    }

    /// Takes the terminal.
    fn take(&mut self) -> Result<(), ReplayError> {
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, cursor::Hide)?;
        if self.mouse {
            execute!(stdout(), EnableMouseCapture)?;
        }
        Ok(())
    }

    fn draw(&mut self, state: &mut State) -> Result<(), ReplayError> {
        if std::mem::take(&mut state.redraw) {
            // Not `clear`: it asks the terminal where the cursor is, and the thread that waits for keys holds
            // the answer back until the next key.
            let size = self.terminal.size()?;
            self.terminal.resize(Rect::from((Position::ORIGIN, size)))?;
        }
        self.terminal.draw(|frame| {
            view::view(state, frame);
            view::censor(frame.buffer_mut());
        })?;
        Ok(())
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        give_back();
    }
}

/// Brings the terminal back to what a shell expects. Failing changes nothing: there is nobody left to tell.
fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, cursor::Show);
    let _ = stdout().flush();
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn wall_ns() -> i64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
